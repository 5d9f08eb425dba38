//! A log, its key, and what a server does to it.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::path::PathBuf;

use stepbox_audit::{
    Anchor, AuditConfig, AuditLog, FindingKind, HEAD_FILE, Outcome, Record, START, STOP, Verified, files_of, verify,
};
use stepbox_trust::{PublicKey, SigningKey};
use tempfile::TempDir;

pub struct Log {
    pub folder: TempDir,
    pub key: PathBuf,
}

impl Log {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let key = folder.path().join("audit.key");
        SigningKey::generate().unwrap().create_file(&key).unwrap();
        Self { folder, key }
    }

    pub fn directory(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub fn public_key(&self) -> PublicKey {
        SigningKey::load(&self.key).unwrap().public_key()
    }

    pub fn config(&self) -> AuditConfig {
        AuditConfig { directory: self.directory(), server: "ps-1".into(), file_bytes: 1 << 20, files: 3 }
    }

    pub fn open(&self) -> AuditLog {
        AuditLog::open(self.config(), SigningKey::load(&self.key).unwrap()).unwrap()
    }

    /// A run of the server that records so many events.
    pub fn run(&self, events: usize) {
        let log = self.open();
        log.record(Record::new(START, Outcome::Noted));
        (0..events).for_each(|number| log.record(deployment(number)));
        log.close(Record::new(STOP, Outcome::Noted));
    }

    pub fn only_file(&self) -> PathBuf {
        let files = files_of(&self.directory()).unwrap();
        assert_eq!(files.len(), 1);
        files[0].clone()
    }

    pub fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.only_file()).unwrap().lines().map(str::to_owned).collect()
    }

    pub fn write(&self, lines: &[String]) {
        fs::write(self.only_file(), lines.iter().flat_map(|line| [line, "\n"]).collect::<String>()).unwrap();
    }

    pub fn verify_with(&self, anchors: &[Anchor]) -> Verified {
        verify(&files_of(&self.directory()).unwrap(), &[self.public_key()], anchors, false).unwrap()
    }

    pub fn verify(&self) -> Verified {
        self.verify_with(&[])
    }

    pub fn head(&self) -> Anchor {
        Anchor::load(&self.directory().join(HEAD_FILE)).unwrap()
    }
}

pub fn deployment(number: usize) -> Record {
    Record {
        identity: "alice".into(),
        subject: format!("optimizer-{number}"),
        ..Record::new("deploy", Outcome::Allowed)
    }
}

pub fn kinds(verified: &Verified) -> Vec<FindingKind> {
    assert_eq!(verified.intact, verified.findings.is_empty());
    verified.findings.iter().map(|finding| finding.kind).collect()
}
