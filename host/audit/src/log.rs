//! The queue to the thread that writes.
//!
//! Who records something never waits: a queue that is full loses the record, and the log says how many it has lost as
//! soon as it can. Who has to know that a line is on disk before something is done, [confirms](AuditLog::confirm) it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stepbox_trust::SigningKey;
use thiserror::Error;

use crate::chain::{Chain, MAX_UNSYNCED};
use crate::damage::Damage;
use crate::error::AuditError;
use crate::fold::Folds;
use crate::line::{Anchor, Repeated};
use crate::record::{Outcome, Record};

/// Records that wait to be written; with short texts some megabytes.
pub const QUEUED_RECORDS: usize = 8192;

/// Records that are written at once.
const BATCH: usize = 256;

/// The shortest file that is followed by another; room for what a new file begins with.
pub const MIN_FILE_BYTES: u64 = 64 << 10;

/// Damages that the status tells of; further ones stand in the log.
const MAX_TOLD_DAMAGES: usize = 8;

/// How long a log that cannot be written rests before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Where a log is and how it is kept.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// The directory of its files; made if it is not there.
    pub directory: PathBuf,
    /// How the server is called in each line.
    pub server: String,
    /// A file that has this length is followed by a new one.
    pub file_bytes: u64,
    /// Files that are kept.
    pub files: usize,
}

/// A log that is being written.
#[derive(Debug)]
pub struct AuditLog {
    sender: SyncSender<Message>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How a log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStatus {
    /// The newest line.
    pub newest: Anchor,
    /// Records lost since the server started, to a full queue or a file that could not be written.
    pub lost: u64,
    /// Why it cannot be written now.
    pub failing: Option<String>,
    /// What was found wrong with it, when it was opened and since.
    pub damaged: Option<String>,
}

/// A record is not on disk, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the audit log cannot be written: {0}")]
pub struct NotRecorded(String);

#[derive(Debug)]
struct Shared {
    newest: Mutex<Anchor>,
    failing: Mutex<Option<String>>,
    /// What was found wrong, the first of it.
    damages: Mutex<Vec<String>>,
    /// By a full queue.
    dropped: AtomicU64,
    /// By files that could not be written.
    unwritten: AtomicU64,
}

impl Shared {
    fn tell_of(&self, damages: &[Damage]) {
        let mut told = self.damages.lock();
        for reason in damages.iter().map(|damage| damage.record().reason) {
            tracing::error!(reason, "the audit log is damaged");
            if told.len() < MAX_TOLD_DAMAGES {
                told.push(reason);
            }
        }
    }
}

#[derive(Debug)]
enum Message {
    Record(Record),
    Confirm(Record, SyncSender<Result<(), NotRecorded>>),
    Close(Option<Record>, SyncSender<()>),
}

impl AuditLog {
    /// Opens a log, or begins one, and starts its thread. What is wrong with it is recorded and does not keep it from
    /// going on.
    ///
    /// # Errors
    /// [`AuditError`] where its files cannot be read or written, or another process writes to it.
    pub fn open(config: AuditConfig, key: SigningKey) -> Result<Self, AuditError> {
        let mut chain = Chain::open(config, key)?;
        let shared = Arc::new(Shared {
            newest: Mutex::new(chain.newest()),
            failing: Mutex::default(),
            damages: Mutex::default(),
            dropped: AtomicU64::new(0),
            unwritten: AtomicU64::new(0),
        });
        // Whoever asks first is to know already.
        shared.tell_of(&chain.take_found());
        let (sender, receiver) = sync_channel(QUEUED_RECORDS);
        let mut writer = Writer {
            chain,
            folds: Folds::default(),
            shared: Arc::clone(&shared),
            pending: Vec::new(),
            reported: 0,
            retry_at: None,
            sync_at: None,
        };
        let thread = std::thread::Builder::new().name("audit".into());
        let thread = thread.spawn(move || writer.run(&receiver)).map_err(AuditError::Thread)?;
        Ok(Self { sender, shared, thread: Mutex::new(Some(thread)) })
    }

    /// Records something. Never waits.
    pub fn record(&self, record: Record) {
        if self.sender.try_send(Message::Record(record)).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records something and waits until it is on disk. Blocks the thread.
    ///
    /// # Errors
    /// [`NotRecorded`] where that cannot be, or takes longer than `timeout`.
    pub fn confirm(&self, record: Record, timeout: Duration) -> Result<(), NotRecorded> {
        let (confirmed, outcome) = sync_channel(1);
        let busy = || NotRecorded("more is to be written than can be".to_owned());
        self.sender.try_send(Message::Confirm(record, confirmed)).map_err(|_| {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            busy()
        })?;
        outcome.recv_timeout(timeout).unwrap_or_else(|_| Err(NotRecorded(format!("not within {timeout:?}"))))
    }

    /// How it is.
    pub fn status(&self) -> LogStatus {
        let Shared { newest, failing, damages, dropped, unwritten } = &*self.shared;
        let damages = damages.lock();
        LogStatus {
            newest: *newest.lock(),
            lost: dropped.load(Ordering::Relaxed) + unwritten.load(Ordering::Relaxed),
            failing: failing.lock().clone(),
            damaged: (!damages.is_empty()).then(|| damages.join("; ")),
        }
    }

    /// Writes the last line, after everything that was recorded before, and ends the thread. Blocks.
    pub fn close(&self, record: Record) {
        self.end(Some(record));
    }

    fn end(&self, record: Option<Record>) {
        let Some(thread) = self.thread.lock().take() else { return };
        let (closed, end) = sync_channel(1);
        if self.sender.send(Message::Close(record, closed)).is_ok() {
            let _ = end.recv();
        }
        if thread.join().is_err() {
            tracing::error!("the audit log's thread has panicked");
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// The thread's own.
struct Writer {
    chain: Chain,
    folds: Folds,
    shared: Arc<Shared>,
    pending: Vec<(Record, Option<Repeated>)>,
    /// Lost records that the log has told of.
    reported: u64,
    /// Set while the log cannot be written.
    retry_at: Option<Instant>,
    /// Set while something is written and not yet on disk for certain.
    sync_at: Option<Instant>,
}

impl Writer {
    fn run(&mut self, receiver: &Receiver<Message>) {
        // Of what was wrong when it was opened.
        let _ = self.write(false);
        loop {
            let due = [self.folds.next_end(), self.retry_at, self.sync_at].into_iter().flatten().min();
            let received = match due {
                Some(due) => receiver.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut confirmations = Vec::new();
            let mut closed = None;
            match received {
                Ok(message) => {
                    let now = Instant::now();
                    // Taken together they are one call into the kernel.
                    for message in std::iter::once(message).chain(receiver.try_iter().take(BATCH - 1)) {
                        match message {
                            Message::Record(record) => {
                                self.pending.extend(self.folds.take(record, now).map(|record| (record, None)));
                            }
                            Message::Confirm(record, confirmed) => {
                                self.pending.push((record, None));
                                confirmations.push(confirmed);
                            }
                            Message::Close(record, end) => {
                                closed = Some((record, end));
                                break;
                            }
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    // What cannot be written has been logged.
                    let _ = self.end(None);
                    return;
                }
            }
            if let Some((record, end)) = closed {
                let written = self.end(record);
                confirmations.into_iter().for_each(|confirmed| drop(confirmed.send(written.clone())));
                let _ = end.send(());
                return;
            }
            self.take_folded(Some(Instant::now()));
            let urgent = !confirmations.is_empty();
            let written = self.write(urgent).and_then(|()| self.sync(urgent));
            for confirmed in confirmations {
                // Nobody may wait any more.
                let _ = confirmed.send(written.clone());
            }
        }
    }

    fn take_folded(&mut self, now: Option<Instant>) {
        self.pending.extend(self.folds.over(now).into_iter().map(|(record, repeated)| (record, Some(repeated))));
    }

    /// Writes what is pending. `urgent` tries also where it has just failed.
    fn write(&mut self, urgent: bool) -> Result<(), NotRecorded> {
        let lost = self.shared.dropped.load(Ordering::Relaxed) + self.shared.unwritten.load(Ordering::Relaxed);
        let told = lost - self.reported;
        if self.pending.is_empty() && told == 0 && !self.chain.has_to_tell() {
            return Ok(());
        }
        let mut records = std::mem::take(&mut self.pending);
        let now = Instant::now();
        if !urgent && self.retry_at.is_some_and(|retry_at| now < retry_at) {
            self.shared.unwritten.fetch_add(records.len() as u64, Ordering::Relaxed);
            return Err(self.failure());
        }
        let count = records.len() as u64;
        if told > 0 {
            let note = Record { code: "lost".into(), ..Record::new("audit", Outcome::Noted) }.with("events", told);
            records.insert(0, (note, None));
        }
        let appended = self.chain.append(&records);
        self.shared.tell_of(&self.chain.take_found());
        match appended {
            Ok(()) => {
                self.reported += told;
                if self.retry_at.take().is_some() {
                    tracing::warn!(lost = told, "the audit log can be written again");
                    *self.shared.failing.lock() = None;
                }
                *self.shared.newest.lock() = self.chain.newest();
                self.sync_at.get_or_insert(now + MAX_UNSYNCED);
                Ok(())
            }
            Err(error) => {
                self.shared.unwritten.fetch_add(count, Ordering::Relaxed);
                Err(self.fail(&error, now))
            }
        }
    }

    fn sync(&mut self, urgent: bool) -> Result<(), NotRecorded> {
        let now = Instant::now();
        if self.chain.is_synced() || !(urgent || self.sync_at.is_some_and(|sync_at| sync_at <= now)) {
            return Ok(());
        }
        self.sync_at = None;
        self.chain.sync().map_err(|error| {
            self.sync_at = Some(now + MAX_UNSYNCED);
            self.fail(&error, now)
        })
    }

    fn fail(&mut self, error: &std::io::Error, now: Instant) -> NotRecorded {
        if self.retry_at.is_none() {
            tracing::error!(%error, "the audit log cannot be written; what happens meanwhile is counted and lost");
        }
        self.retry_at = Some(now + RETRY);
        *self.shared.failing.lock() = Some(error.to_string());
        self.failure()
    }

    fn failure(&self) -> NotRecorded {
        NotRecorded(self.shared.failing.lock().clone().unwrap_or_default())
    }

    fn end(&mut self, last: Option<Record>) -> Result<(), NotRecorded> {
        self.take_folded(None);
        self.pending.extend(last.map(|record| (record, None)));
        self.write(true).and_then(|()| self.sync(true))
    }
}
