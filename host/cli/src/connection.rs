//! How verbs that talk to a server find it: four options, or a profile that has them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use stepbox_client::{Client, ClientConfig, ClientError};

use crate::files;
use crate::output::Failure;

/// A profile has some lines.
const MAX_PROFILE_BYTES: usize = 64 * 1024;

/// Where the server is and who asks.
#[derive(Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// TOML file with `server`, `ca`, `certificate` and `key` [default: stepbox/client.toml in $XDG_CONFIG_HOME]
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,

    /// Address of the server
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,

    /// The name in the server's certificate, where it is not the host
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,

    /// The server's job [default: default]
    #[arg(long, value_name = "NAME", env = "STEPBOX_JOB")]
    job: Option<String>,

    /// Certificate of the authority (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Your certificate (PEM)
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,

    /// Your private key (PEM)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// Seconds to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

/// The profile's file. Relative paths are relative to its folder.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Profile {
    server: Option<String>,
    server_name: Option<String>,
    job: Option<String>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Connection {
    /// Connects, does one thing, and closes the connection.
    pub(crate) fn with_client<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
    ) -> Result<T, Failure> {
        let config = self.config()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::here("runtime", format!("cannot start: {error}")))?;
        runtime.block_on(async {
            let client = Client::connect(&config).await?;
            let result = work(&client).await;
            client.close().await;
            Ok(result?)
        })
    }

    fn config(&self) -> Result<ClientConfig, Failure> {
        let profile = self.profile()?;
        let mut config = ClientConfig::new(
            wanted("server", &self.server, profile.server)?,
            wanted("ca", &self.ca, profile.ca)?,
            wanted("certificate", &self.certificate, profile.certificate)?,
            wanted("key", &self.key, profile.key)?,
        );
        config.server_name = self.server_name.clone().or(profile.server_name);
        if let Some(job) = self.job.clone().or(profile.job) {
            config.job = job;
        }
        config.request_timeout = Duration::from_secs(self.timeout);
        Ok(config)
    }

    fn profile(&self) -> Result<Profile, Failure> {
        match &self.profile {
            Some(path) => Profile::load(path),
            None => match default_profile() {
                Some(path) if path.exists() => Profile::load(&path),
                _ => Ok(Profile::default()),
            },
        }
    }
}

fn wanted<T: Clone>(name: &str, option: &Option<T>, profile: Option<T>) -> Result<T, Failure> {
    option.clone().or(profile).ok_or_else(|| {
        Failure::here("profile", format!("`{name}` is missing: give `--{name}`, or set it in a profile (`--profile`)"))
    })
}

impl Profile {
    fn load(path: &Path) -> Result<Self, Failure> {
        let text = files::read_text(path, MAX_PROFILE_BYTES)?;
        let mut profile: Self = toml::from_str(&text)
            .map_err(|error| Failure::here("profile", format!("profile {}: {error}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in [&mut profile.ca, &mut profile.certificate, &mut profile.key].into_iter().flatten() {
            // An absolute path replaces the folder.
            *file = folder.join(&*file);
        }
        Ok(profile)
    }
}

/// `stepbox/client.toml` in the folder the XDG base directory specification names; a relative one does not count.
fn default_profile() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(folder.join("stepbox/client.toml"))
}
