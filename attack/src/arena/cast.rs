//! Who takes part, with certificates and keys made for this run.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustls::ClientConfig as Tls;
use stepbox_client::{Client, ClientConfig};
use stepbox_trust::{SigningKey, sign};
use toml::Value;

use super::authority::{Authority, Credentials};
use super::model::WORKERS;
use super::process::{Process, Program};
use crate::{HANGS, raw};

/// The optimizer that everybody trains with.
pub const GOOD: &str = "adamw";

/// Its version. There is room for older ones below.
pub const GOOD_VERSION: &str = "1.5.0";

/// The only optimizer that the second publisher may sign.
pub const NARROW: &str = "lion";

/// The optimizer that two publishers must sign.
pub const GUARDED: &str = "sgd";

/// The optimizer that takes over between a bad one and [`GOOD`].
pub const INTERIM: &str = "adagrad";

/// The optimizer with a known weakness below [`MINIMUM_VERSION`].
pub const MENDED: &str = "signum";

/// See [`MENDED`].
pub const MINIMUM_VERSION: &str = "2.0.0";

/// Connections that an identity may hold here: few, so that a flood is soon one.
pub const CONNECTIONS_PER_IDENTITY: usize = 12;

/// Seconds for a handshake and for a frame here: short, so that it is soon seen that slowness has an end.
pub const PATIENCE_SECONDS: f64 = 3.0;

/// How often the server looks at its files here: often, so that a revocation is soon seen.
pub const RELOAD_SECONDS: f64 = 0.5;

/// Requests of a connection that may wait.
pub const OUTSTANDING_REQUESTS: usize = 64;

/// Identities, keys and files.
pub struct Cast {
    /// The program under attack.
    pub program: Program,
    /// Where everything lies.
    pub folder: PathBuf,
    /// Where the built components are.
    pub components: PathBuf,
    /// Who certifies peers.
    pub authority: Authority,
    /// Who certifies others' peers.
    pub stranger: Authority,
    /// Whose optimizers are trusted.
    pub publisher: SigningKey,
    /// Trusted for the optimizer [`NARROW`] alone.
    pub narrow: SigningKey,
    /// Trusted by nobody.
    pub forger: SigningKey,
    /// A trusted publisher's key that was stolen and is revoked.
    pub revoked: SigningKey,
    /// A trusted publisher's key that has expired.
    pub expired: SigningKey,
    /// A trusted publisher's key that is not valid yet.
    pub early: SigningKey,
    /// Whose signature [`GUARDED`] needs beside the publisher's.
    pub board: SigningKey,
    good: Vec<u8>,
}

impl Cast {
    /// Makes everybody's certificates and keys.
    pub(super) async fn make(stepbox: &Path, components: &Path, folder: &Path) -> Result<Self> {
        let authority = Authority::new(folder.join("certificates"))?;
        let publisher = SigningKey::generate()?;
        let good = sign(&component(components, GOOD)?, GOOD, GOOD_VERSION, &publisher)?;
        for identity in
            ["deployer", "submitter", "activator", "operator", "insider", "outsider", "evaluator", "neighbour"]
        {
            authority.issue(identity)?;
        }
        for rank in 0..WORKERS {
            authority.issue(&Self::worker(rank))?;
        }
        let server = super::authority::Wanted { is_server: true, ..super::authority::Wanted::new("server") };
        authority.issue_as("server", server)?;
        Ok(Self {
            program: Program::new(stepbox).await?,
            folder: folder.to_owned(),
            components: components.to_owned(),
            authority,
            stranger: Authority::new(folder.join("strangers"))?,
            publisher,
            narrow: SigningKey::generate()?,
            forger: SigningKey::generate()?,
            revoked: SigningKey::generate()?,
            expired: SigningKey::generate()?,
            early: SigningKey::generate()?,
            board: SigningKey::generate()?,
            good,
        })
    }

    /// The identity of a worker.
    pub fn worker(rank: usize) -> String {
        format!("worker-{rank}")
    }

    /// The good optimizer, signed.
    pub fn good(&self) -> Vec<u8> {
        self.good.clone()
    }

    /// A built component, signed by the trusted publisher under its own name.
    ///
    /// # Errors
    /// It was not built.
    pub fn signed(&self, name: &str, version: &str) -> Result<Vec<u8>> {
        let own_name = name.rsplit('/').next().unwrap_or(name);
        Ok(sign(&self.component(name)?, own_name, version, &self.publisher)?)
    }

    /// A built component, as it is.
    ///
    /// # Errors
    /// It was not built.
    pub fn component(&self, name: &str) -> Result<Vec<u8>> {
        component(&self.components, name)
    }

    /// Somebody's files.
    pub fn credentials(&self, identity: &str) -> Credentials {
        let file = |extension: &str| self.folder.join("certificates").join(format!("{identity}.{extension}"));
        Credentials { certificate: file("pem"), key: file("key") }
    }

    /// How a client reaches a server as somebody.
    pub fn reach(&self, address: SocketAddr, credentials: &Credentials) -> ClientConfig {
        let ca = self.authority.certificate();
        let mut config = ClientConfig::new(address.to_string(), ca, &credentials.certificate, &credentials.key);
        config.request_timeout = HANGS;
        config
    }

    /// Somebody's client.
    ///
    /// # Errors
    /// The server does not want it.
    pub async fn client(&self, address: SocketAddr, identity: &str) -> Result<Client> {
        let config = self.reach(address, &self.credentials(identity));
        Client::connect(&config).await.with_context(|| format!("{identity} cannot connect"))
    }

    /// Somebody's TLS, for connections that are not a client's.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn tls(&self, identity: &str) -> Result<Tls> {
        raw::tls(&self.authority.certificate(), Some(&self.credentials(identity)))
    }

    /// Starts a server in a folder, with the configuration and trust file in it, which are written first.
    pub(super) async fn start(&self, folder: &Path) -> Result<Process> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::write(folder.join("publishers.toml"), self.trust_file(&[], &[]))?;
        fs::write(folder.join("server.toml"), self.configuration()?)?;
        Process::start(&self.program, folder, "server.toml").await
    }

    /// Whose optimizers are trusted, but for components with these digests and those signed with these keys.
    pub fn trust_file(&self, revoked_digests: &[String], revoked_keys: &[&SigningKey]) -> String {
        let key = |key: &SigningKey| key.public_key().to_string();
        let revoked = revoked_keys.iter().copied().chain([&self.revoked]);
        let revoked: Vec<String> = revoked.map(|key| key.public_key().id().to_string()).collect();
        let mut text = format!("format = 1\nrevoked_keys = {revoked:?}\nrevoked_digests = {revoked_digests:?}\n");
        for (name, fields) in [
            ("Example", format!("public_key = '{}'", key(&self.publisher))),
            ("Narrow", format!("public_key = '{}'\nnamespaces = ['{NARROW}']", key(&self.narrow))),
            ("Stolen", format!("public_key = '{}'", key(&self.revoked))),
            ("Board", format!("public_key = '{}'\nnamespaces = ['{GUARDED}']", key(&self.board))),
            ("Past", format!("[[publisher.key]]\npublic_key = '{}'\nvalid_until = 2021-01-01", key(&self.expired))),
            ("Future", format!("[[publisher.key]]\npublic_key = '{}'\nvalid_from = 2110-01-01", key(&self.early))),
        ] {
            text += &format!("[[publisher]]\nname = '{name}'\n{fields}\n");
        }
        text += &format!("[[rule]]\nnames = ['{GUARDED}']\nsigners = ['Example', 'Board']\nthreshold = 2\n");
        text += &format!("[minimum_versions]\n{MENDED} = '{MINIMUM_VERSION}'\n[end]\n");
        text
    }

    /// The configuration of the server that is attacked, and of its twin.
    fn configuration(&self) -> Result<String> {
        let Credentials { certificate, key } = self.credentials("server");
        let workers: Vec<_> = (0..WORKERS).map(Self::worker).collect();
        let (ca, seconds) = (self.authority.certificate(), PATIENCE_SECONDS);
        let configuration = toml::toml! {
            listen = "127.0.0.1:0"
            state_directory = "state"
            shard_threads = 2
            [access]
            publishers = ["deployer", "submitter"]
            deployers = ["deployer", "activator"]
            operators = ["operator", "insider"]
            grant = [{ identities = ["evaluator"], rights = ["pull"], keys = ["bias"] }]
            [jobs.other]
            workers = ["neighbour"]
            access = { publishers = ["neighbour"], deployers = ["neighbour"], operators = ["neighbour"] }
        };
        let mut configuration = configuration;
        let mut section = |name: &str, fields: Vec<(&str, Value)>| {
            let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            configuration.insert(name.to_owned(), Value::Table(fields));
        };
        let path = |path: &Path| Value::String(path.display().to_string());
        let tls = vec![
            ("ca", path(&ca)),
            ("certificate", path(&certificate)),
            ("key", path(&key)),
            ("revocation_lists", Value::Array(vec![path(&self.authority.revocation_list())])),
            ("reload_seconds", Value::Float(RELOAD_SECONDS)),
        ];
        section("tls", tls);
        section("trust", vec![("store", "publishers.toml".into()), ("reload_seconds", Value::Float(RELOAD_SECONDS))]);
        section(
            "job",
            vec![
                ("workers", Value::try_from(workers)?),
                // Reached only where something hangs, which is then said.
                ("round_timeout_seconds", Value::Float(HANGS.as_secs_f64())),
                ("reconnect_grace_seconds", Value::Float(HANGS.as_secs_f64())),
            ],
        );
        // Small, so that a tensor is stepped in many calls.
        section(
            "sandbox",
            vec![("limits", toml::Table::from_iter([("block_elements".to_owned(), 8192.into())]).into())],
        );
        // Little, so that it is soon seen that the work for a compiler has an end.
        section("compiler", vec![("processor_seconds", Value::Integer(3))]);
        section(
            "limits",
            vec![
                ("connections_per_identity", Value::try_from(CONNECTIONS_PER_IDENTITY)?),
                ("handshake_seconds", Value::Float(seconds)),
                ("frame_seconds", Value::Float(seconds)),
                // One attacker deploys all hostile optimizers here.
                ("changes_per_minute", Value::Integer(1_000_000)),
                ("outstanding_requests", Value::try_from(OUTSTANDING_REQUESTS)?),
            ],
        );
        Ok(toml::to_string(&configuration)?)
    }
}

fn component(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let path = folder.join(format!("{name}.wasm"));
    fs::read(&path).with_context(|| format!("{}; `cargo xtask guests` builds it", path.display()))
}
