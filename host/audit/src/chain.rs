//! Appends lines to the files, and takes up where another process has ended.
//!
//! A line is written whole or, as far as it depends on us, not at all: what a failed write has left is cut off again.
//! What a process that was killed has left stays as it is; the next line tells its length and hash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use stepbox_trust::{Digest, PublicKey, SigningKey, replace_file};

use crate::damage::Damage;
use crate::directory;
use crate::end::{End, signed, torn_or_damage};
use crate::error::AuditError;
use crate::head;
use crate::line::{Anchor, Line, Repeated, Torn};
use crate::log::{AuditConfig, MIN_FILE_BYTES};
use crate::record::{Outcome, Record};

/// How long a line may be in the file before it is made sure that it is on disk.
pub const MAX_UNSYNCED: Duration = Duration::from_secs(1);

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct Chain {
    config: AuditConfig,
    key: SigningKey,
    file: File,
    number: u64,
    /// Of the file, up to the last whole line, or with all of it where the file was taken up.
    length: u64,
    /// The file does not end with a line feed: the next line brings one. Alone it could be all that a crash leaves.
    lacks_line_feed: bool,
    /// A failed write has left something behind this length that could not be cut off.
    has_rest: bool,
    newest: Anchor,
    torn: Option<Torn>,
    /// What is wrong and has no line yet.
    untold: Vec<Damage>,
    /// What is wrong and was not asked for yet.
    found: Vec<Damage>,
    is_synced: bool,
    _lock: File,
}

impl Chain {
    /// Opens a log, or begins one. What is wrong with it is told in its next lines.
    pub(crate) fn open(mut config: AuditConfig, key: SigningKey) -> Result<Self, AuditError> {
        config.file_bytes = config.file_bytes.max(MIN_FILE_BYTES);
        config.files = config.files.max(2);
        directory::make(&config.directory)?;
        let lock = directory::lock(&config.directory)?;
        let public_key = key.public_key();
        publish(&config, &public_key)?;

        let numbers = directory::numbered(&config.directory)?;
        let end = End::find(&config, &numbers, &public_key)?;
        let head = head(&config, &public_key);
        let (newest, torn, untold) = end.judge(head);

        let number = numbers.last().copied().unwrap_or(1);
        let path = directory::path_of(&config.directory, number);
        let mut file = match numbers.is_empty() {
            true => directory::begin(&config.directory, number).map_err(AuditError::file("make", &path))?,
            false => directory::go_on(&path)?,
        };
        let (length, lacks_line_feed) = ending(&mut file).map_err(AuditError::file("read", &path))?;
        let mut chain = Self {
            config,
            key,
            file,
            number,
            length,
            lacks_line_feed,
            has_rest: false,
            newest,
            torn,
            found: untold.clone(),
            untold,
            is_synced: true,
            _lock: lock,
        };
        // From the first line on there is one, so that one that is missing was taken away.
        let path = chain.config.directory.join(directory::HEAD_FILE);
        chain.is_synced = head.is_some_and(|head| head.sequence >= chain.newest.sequence);
        chain.sync().map_err(AuditError::file("write", &path))?;
        Ok(chain)
    }

    /// Whether something is wrong that has no line yet.
    pub(crate) fn has_to_tell(&self) -> bool {
        !self.untold.is_empty()
    }

    /// What was found wrong since this was asked last.
    pub(crate) fn take_found(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.found)
    }

    /// The newest line.
    pub(crate) fn newest(&self) -> Anchor {
        self.newest
    }

    /// Whether everything is on disk.
    pub(crate) fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Appends a line for each of these, or none of them; before them, lines about what is wrong with the log.
    pub(crate) fn append(&mut self, records: &[(Record, Option<Repeated>)]) -> io::Result<()> {
        if self.has_rest {
            self.take_rest()?;
        }
        self.look_at_file()?;
        let about: Vec<_> = self.untold.iter().map(|damage| (damage.record(), None)).collect();
        self.write(&about)?;
        self.untold.clear();
        if !records.is_empty() && self.length > 0 && self.length >= self.config.file_bytes {
            self.rotate()?;
        }
        self.write(records)
    }

    fn write(&mut self, records: &[(Record, Option<Repeated>)]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let (mut newest, mut torn) = (self.newest, self.torn.clone());
        let mut bytes = if self.lacks_line_feed { vec![b'\n'] } else { Vec::new() };
        for (record, repeated) in records {
            let line = Line {
                sequence: newest.sequence + 1,
                time: record.time,
                server: self.config.server.clone(),
                record: record.clone().bounded(),
                repeated: repeated.clone(),
                torn: torn.take(),
                previous: newest.hash,
            }
            .sign(&self.key);
            newest = Anchor { sequence: newest.sequence + 1, hash: Digest::of(&line) };
            bytes.extend_from_slice(&line);
        }
        if let Err(error) = self.file.write_all(&bytes) {
            self.has_rest = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.newest = newest;
        self.torn = torn;
        self.lacks_line_feed = false;
        self.is_synced = false;
        Ok(())
    }

    /// Makes sure that everything is on disk, and notes the newest line as the log's head.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if !self.is_synced {
            self.file.sync_data()?;
            let head = head::sign(self.newest, &self.config.server, &self.key);
            replace_file(&self.config.directory.join(directory::HEAD_FILE), &head)?;
            self.is_synced = true;
        }
        Ok(())
    }

    /// Cuts off what a failed write has left. Where that cannot be (a file that may only be appended to), it is taken up:
    /// whole lines of it are lines of the log.
    fn take_rest(&mut self) -> io::Result<()> {
        if self.file.set_len(self.length).is_err() {
            let numbers = directory::numbered(&self.config.directory).map_err(io::Error::other)?;
            let end = End::find(&self.config, &numbers, &self.key.public_key()).map_err(io::Error::other)?;
            if let Some(newest) = end.newest.filter(|newest| newest.sequence > self.newest.sequence) {
                (self.newest, self.is_synced) = (newest, false);
            }
            let (torn, damage) = torn_or_damage(&end.rest, self.newest.sequence);
            self.torn = torn;
            damage.into_iter().for_each(|damage| self.find(damage));
            (self.length, self.lacks_line_feed) = ending(&mut self.file)?;
        }
        self.has_rest = false;
        Ok(())
    }

    fn find(&mut self, damage: Damage) {
        self.found.push(damage.clone());
        self.untold.push(damage);
    }

    /// Notices where somebody has moved, removed, replaced, cut or extended the file since the last line. Where it is not
    /// in its place the log goes on in a new one.
    fn look_at_file(&mut self) -> io::Result<()> {
        let path = directory::path_of(&self.config.directory, self.number);
        let own = self.file.metadata()?;
        let name = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_in_place = match fs::symlink_metadata(&path) {
            Ok(there) => directory::is_same_file(&own, &there),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !is_in_place {
            let damage = Damage::FileGone { file: name(), last: self.newest.sequence };
            self.begin_elsewhere()?;
            self.find(damage);
        } else if own.len() != self.length {
            self.find(Damage::FileChanged { file: name(), written: self.length, found: own.len() });
            (self.length, self.lacks_line_feed) = ending(&mut self.file)?;
        }
        Ok(())
    }

    /// Goes on in a new file, and in a new directory where that is gone, too.
    fn begin_elsewhere(&mut self) -> io::Result<()> {
        if !self.config.directory.is_dir() {
            directory::make(&self.config.directory).map_err(io::Error::other)?;
            self._lock = directory::lock(&self.config.directory).map_err(io::Error::other)?;
        }
        publish(&self.config, &self.key.public_key()).map_err(io::Error::other)?;
        let numbers = directory::numbered(&self.config.directory).map_err(io::Error::other)?;
        let number = numbers.last().copied().unwrap_or(0).max(self.number) + 1;
        let file = directory::begin(&self.config.directory, number)?;
        (self.file, self.number, self.length) = (file, number, 0);
        // What was torn is in the file that is gone.
        (self.torn, self.lacks_line_feed, self.is_synced) = (None, false, false);
        Ok(())
    }

    /// Goes on in a new file, and removes the oldest ones.
    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        let file = directory::begin(&self.config.directory, self.number + 1)?;
        (self.file, self.number, self.length) = (file, self.number + 1, 0);
        self.lacks_line_feed = false;
        let numbers = directory::numbered(&self.config.directory).map_err(io::Error::other)?;
        let too_many = numbers.len().saturating_sub(self.config.files);
        for pair in numbers.windows(2).take(too_many) {
            let [oldest, next] = [pair[0], pair[1]].map(|number| directory::path_of(&self.config.directory, number));
            let through = self.first_sequence(&next)?.saturating_sub(1);
            let name = oldest.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let retired = Record { code: "retired".into(), subject: name, ..Record::new("audit", Outcome::Noted) };
            // On disk before the file is gone: a crash in between is not to look like tampering.
            self.write(&[(retired.with("through", through), None)])?;
            self.sync()?;
            fs::remove_file(&oldest)?;
            tracing::info!(file = %oldest.display(), through, "the oldest file of the audit log is removed (audit.files)");
        }
        Ok(())
    }

    /// The number of a file's first line. Only of a line that is signed is it certain; of another key's lines it is no
    /// more than what they say, and never more than there are lines.
    fn first_sequence(&self, path: &Path) -> io::Result<u64> {
        let (key, mut unsigned) = (self.key.public_key(), None);
        for line in crate::tail::Lines::new(File::open(path)?) {
            let content = line?.content;
            if let Some(anchor) = signed(&content, &key) {
                return Ok(anchor.sequence);
            }
            unsigned = unsigned.or(Line::read(&content).map(|line| line.sequence));
        }
        Ok(unsigned.unwrap_or(0).min(self.newest.sequence))
    }
}

/// The length of a file, and whether its last line lacks its line feed.
fn ending(file: &mut File) -> io::Result<(u64, bool)> {
    let (last, _) = directory::end_of(file, 1)?;
    Ok((file.metadata()?.len(), !matches!(last.as_slice(), [] | [b'\n'])))
}

/// The head that we have signed.
fn head(config: &AuditConfig, key: &PublicKey) -> Option<Anchor> {
    let bytes = fs::read(config.directory.join(directory::HEAD_FILE)).ok()?;
    head::read(&bytes, std::slice::from_ref(key))
}

/// Puts the public key beside the files.
fn publish(config: &AuditConfig, key: &PublicKey) -> Result<(), AuditError> {
    let path: PathBuf = config.directory.join(directory::PUBLIC_KEY_FILE);
    replace_file(&config.directory.join(directory::PUBLIC_KEY_FILE), key.to_pem().as_bytes())
        .map_err(AuditError::file("write", &path))
}
