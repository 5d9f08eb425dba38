//! The trust file of a running server, as it was read last.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use stepbox_trust::{Digest, Finding, MAX_TRUST_FILE_BYTES, Severity, TrustStore};
use stepbox_wire::ErrorCode;

use crate::config::{Limits, TrustConfig, unreadable};
use crate::names::{Answered, Refusal};

/// The trust file as it was read last.
#[derive(Debug)]
pub(crate) struct TrustFile {
    path: PathBuf,
    most_component_bytes: usize,
    /// Held by whoever reads the file, so that an older content never takes the place of a newer one.
    looking: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last that could be used.
    store: Arc<TrustStore>,
    /// Of the content that was looked at last, usable or not.
    content: Option<Digest>,
    /// Why what was looked at last cannot be used.
    fault: Option<String>,
}

/// What looking at the file has brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FileChange {
    Unchanged,
    Replaced,
    /// It cannot be used, and could before.
    Unusable(String),
}

impl TrustFile {
    /// Reads the file. Where it cannot be used nobody is trusted until it can.
    pub fn new(config: &TrustConfig, limits: &Limits) -> Self {
        let most_component_bytes = usize::try_from(limits.component_bytes).unwrap_or(usize::MAX);
        let trust = Self {
            path: config.store.clone(),
            most_component_bytes,
            looking: Mutex::default(),
            state: Mutex::default(),
        };
        if let FileChange::Unusable(fault) = trust.read_again() {
            tracing::error!(fault, "nobody is trusted");
        }
        trust
    }

    /// What is in force.
    pub fn store(&self) -> Arc<TrustStore> {
        Arc::clone(&self.state.lock().store)
    }

    /// What a deployment is verified with. While the file cannot be used nothing is deployed: what stood in it may have
    /// been a revocation.
    pub fn store_for_deployment(&self) -> Answered<Arc<TrustStore>> {
        let state = self.state.lock();
        match &state.fault {
            None => Ok(Arc::clone(&state.store)),
            Some(fault) => {
                let message = format!("nothing is deployed while the trust file cannot be used: {fault}");
                Err(Refusal::new(ErrorCode::Internal, message).because("trust-file"))
            }
        }
    }

    /// Why the file cannot be used, if it cannot.
    pub fn fault(&self) -> Option<String> {
        self.state.lock().fault.clone()
    }

    /// Looks at the file and takes over what is new in it. Waits for the disk.
    pub fn read_again(&self) -> FileChange {
        let _looking = self.looking.lock();
        let read = File::open(&self.path).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(MAX_TRUST_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
            if bytes.len() > MAX_TRUST_FILE_BYTES {
                let reason = format!("it has more than {MAX_TRUST_FILE_BYTES} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            Ok(bytes)
        });
        // By its content: times and inodes can stay as they were.
        let content = read.as_ref().ok().map(|bytes| Digest::of(bytes));
        // Not before: rounds wait for whoever has this, and a disk can be slow.
        let mut state = self.state.lock();
        if content.is_some() && content == state.content {
            return FileChange::Unchanged;
        }
        state.content = content;
        let parsed = read.map_err(|error| unreadable(&error)).and_then(|bytes| {
            let text = String::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
            TrustStore::parse(&text).map_err(|error| error.to_string())
        });
        match parsed {
            Ok(store) => {
                warn_of_findings(&store);
                state.store = Arc::new(store.with_max_component_bytes(self.most_component_bytes));
                state.fault = None;
                FileChange::Replaced
            }
            Err(reason) => {
                let fault = format!("trust file {}: {reason}", self.path.display());
                let is_new = state.fault.as_ref() != Some(&fault);
                state.fault = Some(fault.clone());
                if is_new { FileChange::Unusable(fault) } else { FileChange::Unchanged }
            }
        }
    }
}

/// What `stepbox trust check` calls an error without the file being wrong: nothing can be deployed by part of it. The file
/// is in force all the same, since a revocation may be the cause.
fn warn_of_findings(store: &TrustStore) {
    let findings = store.findings(SystemTime::now());
    for Finding { code, message, .. } in findings.iter().filter(|finding| finding.severity == Severity::Error) {
        tracing::warn!(code, finding = message, "the trust file is in force, but part of it has no effect");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn what_cannot_be_used_leaves_the_file_before_in_force_and_stops_deployments_until_it_can() {
        let folder = std::env::temp_dir().join(format!("stepbox-trust-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let text = r#"
            listen = "127.0.0.1:0"
            state_directory = "state"
            tls = { ca = "ca.pem", certificate = "server.pem", key = "server.key" }
            job = { workers = ["worker-0"] }
            trust = { store = "publishers.toml" }
        "#;
        let config = Config::parse(text, Path::new(&folder)).expect("a configuration");
        let path = folder.join("publishers.toml");
        let publisher = "[[publisher]]\nname = 'a'\n\
             public_key = 'MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE='\n[end]\n";
        let write = |lines: &str| std::fs::write(&path, format!("{lines}\n{publisher}")).expect("written");
        write("revoked_keys = []");
        let trust = TrustFile::new(&config.trust, &config.limits);
        assert_eq!(trust.read_again(), FileChange::Unchanged);
        assert!(trust.store_for_deployment().is_ok());

        write("revoked_kyes = []");
        assert!(matches!(trust.read_again(), FileChange::Unusable(fault) if fault.contains("revoked_kyes")));
        assert_eq!(trust.read_again(), FileChange::Unchanged, "told once");
        let in_force = trust.store();
        assert_eq!(trust.store_for_deployment().map(drop).map_err(|refusal| refusal.reason), Err(Some("trust-file")));
        std::fs::remove_file(&path).expect("removed");
        assert!(matches!(trust.read_again(), FileChange::Unusable(_)));
        assert_eq!(trust.read_again(), FileChange::Unchanged, "told once");
        assert!(Arc::ptr_eq(&in_force, &trust.store()));

        write("revoked_digests = []");
        assert_eq!(trust.read_again(), FileChange::Replaced);
        let whole = std::fs::read_to_string(&path).expect("it is there");
        for beginning in ["", "format = 1", whole.strip_suffix("[end]\n").expect("its last line")] {
            let in_force = trust.store();
            std::fs::write(&path, beginning).expect("written");
            assert!(
                matches!(trust.read_again(), FileChange::Unusable(fault) if fault.contains("[end]")),
                "{beginning:?}"
            );
            assert!(Arc::ptr_eq(&in_force, &trust.store()));
            std::fs::write(&path, &whole).expect("written");
            assert_eq!(trust.read_again(), FileChange::Replaced);
        }
        assert!(trust.store_for_deployment().is_ok());
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
