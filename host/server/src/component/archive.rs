//! Components that the server keeps on disk: those deployed last, to go back to, and those submitted, to be activated.
//!
//! In the folder `components` of the state directory: a file for each under its digest, and `index.toml`, which says
//! what they are for. Lying there earns a file no trust: whatever is read from here goes through signature, trust file
//! and ledger again, as if it had just come.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use stepbox_wire::{OptimizerStatus, SubmissionStatus};

use super::files::{read_plain_file, write};
use super::index::{Index, Kept};

/// Deployments before the present one that can be rolled back to. Each is a component on disk, of 20 to 200 KiB as a
/// rule; whoever wants to go further back than three deployments has other troubles.
pub const MAX_PREVIOUS_DEPLOYMENTS: usize = 3;

/// An index is at most this large: 16 MiB, half of it for the options of all deployments in it, and the rest for thousands
/// of submissions. What would be larger is not written.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// In the state directory.
pub(crate) const FOLDER: &str = "components";

/// From there.
pub(crate) const INDEX_PATH: &str = "components/index.toml";

const INDEX: &str = "index.toml";
const COMPONENT: &str = "wasm";
const TEMPORARY: &str = "tmp";
const DAMAGED: &str = "damaged";

/// What one job keeps. Its methods wait for the disk.
#[derive(Debug)]
pub(crate) struct Archive {
    folder: PathBuf,
    index: Index,
    /// Whether the newest deployment runs. After a restart nothing does, and the newest is what to go back to first.
    newest_runs: bool,
    unnamed: Unnamed,
    /// What can be rolled back to, for those who do not wait for the disk.
    shown: Shown,
}

/// See [`Archive::shown`].
pub(crate) type Shown = Arc<RwLock<Vec<OptimizerStatus>>>;

/// Digests of files that are kept and that the index does not name yet, or not only: as often as somebody holds them.
type Unnamed = Arc<Mutex<Vec<String>>>;

/// A file that stays where it is until this is dropped, whatever the index says.
#[derive(Debug)]
#[must_use = "without it the file stays only where the index names it"]
pub(crate) struct FileLease {
    digest: String,
    unnamed: Unnamed,
}

impl Drop for FileLease {
    fn drop(&mut self) {
        let mut unnamed = self.unnamed.lock();
        if let Some(position) = unnamed.iter().position(|digest| *digest == self.digest) {
            unnamed.swap_remove(position);
        }
    }
}

impl Archive {
    /// Reads what a server before has kept. Damage costs what was kept, never the start: all of it can come again.
    pub fn open(state_directory: &Path) -> Self {
        let folder = state_directory.join(FOLDER);
        let path = folder.join(INDEX);
        let read = read_plain_file(&path, MAX_INDEX_BYTES).and_then(|bytes| {
            let text = String::from_utf8(bytes).map_err(io::Error::other)?;
            let index: Index = toml::from_str(&text).map_err(io::Error::other)?;
            match text.trim_end().lines().next_back() == Some(&*index.end_mark()) {
                true => Ok(index),
                false => Err(io::Error::other(format!("it does not end with the line `{}`", index.end_mark()))),
            }
        });
        let index = match read {
            Ok(index) => index,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Index::default(),
            Err(error) => {
                let kept_as = path.with_extension(DAMAGED);
                // What fails here leaves it in its place until something new is written there.
                let _ = fs::rename(&path, &kept_as);
                tracing::error!(
                    path = %path.display(),
                    kept_as = %kept_as.display(),
                    %error,
                    "the index of components is damaged or cut off, so what was submitted and deployed before is not \
                     known; deploy and submit it again, or restore the state directory from a backup"
                );
                Index::default()
            }
        };
        let archive = Self { folder, index, newest_runs: false, unnamed: Unnamed::default(), shown: Shown::default() };
        archive.show();
        archive
    }

    /// What can be rolled back to, the newest first, as it is at any time.
    pub fn shown(&self) -> Shown {
        Arc::clone(&self.shown)
    }

    fn show(&self) {
        *self.shown.write() = self.previous().iter().map(|kept| kept.optimizer.clone()).collect();
    }

    /// The bytes that are kept under a digest, at most so many.
    pub fn read(&self, digest: &str, most_bytes: u64) -> io::Result<Vec<u8>> {
        read_plain_file(&self.path(digest), most_bytes)
    }

    /// Keeps a component's bytes. They stay as long as the index names them, and as long as what this returns is held.
    pub fn keep(&self, digest: &str, bytes: &[u8]) -> io::Result<FileLease> {
        let lease = self.lease(digest);
        write(&self.path(digest), bytes).map(|()| lease)
    }

    /// Has the file of a digest stay where it is.
    pub fn lease(&self, digest: &str) -> FileLease {
        self.unnamed.lock().push(digest.to_owned());
        FileLease { digest: digest.to_owned(), unnamed: Arc::clone(&self.unnamed) }
    }

    // Deployments.

    /// What can be rolled back to, the newest first.
    pub fn previous(&self) -> &[Kept] {
        self.index.deployed.get(usize::from(self.newest_runs)..).unwrap_or_default()
    }

    /// Puts a deployment before all others.
    pub fn deployed(&mut self, kept: Kept) -> io::Result<()> {
        self.newest_runs = true;
        let deployed = &mut self.index.deployed;
        // The same again is no deployment to go back from.
        if deployed.first() != Some(&kept) {
            deployed.insert(0, kept);
            deployed.truncate(1 + MAX_PREVIOUS_DEPLOYMENTS);
        }
        self.save()
    }

    /// Forgets what was deployed after this one, which is the present one again.
    pub fn rolled_back(&mut self, kept: &Kept) -> io::Result<()> {
        let running = usize::from(self.newest_runs);
        if let Some(position) = self.previous().iter().position(|previous| previous == kept) {
            self.index.deployed.drain(..running + position);
        }
        self.newest_runs = true;
        self.save()
    }

    // Submissions.

    /// In order of submission.
    pub fn submitted(&self) -> &[SubmissionStatus] {
        &self.index.submitted
    }

    /// The submission of this digest.
    pub fn submission(&self, digest: &str) -> Option<&SubmissionStatus> {
        self.index.submitted.iter().find(|submission| submission.component.digest == digest)
    }

    /// Adds a submission whose bytes are kept. On an error it is not there.
    pub fn submit(&mut self, submission: SubmissionStatus) -> io::Result<()> {
        self.index.submitted.push(submission);
        self.save().inspect_err(|_| drop(self.index.submitted.pop()))
    }

    /// Forgets a submission. Returns whether there was one. On an error it is still there.
    pub fn withdraw(&mut self, digest: &str) -> io::Result<bool> {
        let position = self.index.submitted.iter().position(|submission| submission.component.digest == digest);
        let Some(position) = position else { return Ok(false) };
        let withdrawn = self.index.submitted.remove(position);
        self.save().inspect_err(|_| self.index.submitted.insert(position, withdrawn))?;
        Ok(true)
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(digest).with_extension(COMPONENT)
    }

    fn save(&self) -> io::Result<()> {
        self.show();
        let text = toml::to_string(&self.index).map_err(io::Error::other)?;
        let text = format!(
            "# Components that were deployed last or submitted. Written by stepbox.\n\n{text}\n{}\n",
            self.index.end_mark()
        );
        if text.len() as u64 > MAX_INDEX_BYTES {
            let message = format!("its index would have {} bytes, above {MAX_INDEX_BYTES}", text.len());
            return Err(io::Error::other(message));
        }
        write(&self.folder.join(INDEX), text.as_bytes())?;
        self.sweep();
        Ok(())
    }

    /// Removes what the index does not name. What cannot be removed only takes room.
    fn sweep(&self) {
        let Index { deployed, submitted } = &self.index;
        let digests = deployed.iter().map(|kept| &kept.optimizer.digest);
        let unnamed = self.unnamed.lock();
        let digests = digests.chain(submitted.iter().map(|submission| &submission.component.digest)).chain(&*unnamed);
        let named: HashSet<PathBuf> = digests.map(|digest| self.path(digest)).collect();
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_ours = path.extension().is_some_and(|extension| extension == COMPONENT || extension == TEMPORARY);
            if is_ours
                && !named.contains(&path)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "a component that is not needed any more stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use stepbox_wire::{DeployOptions, Group, Schedule, ScheduleKind, TensorFilter};

    use super::super::index::{MAX_OPTIONS_BYTES, check_options};
    use super::*;

    fn kept(name: &str, learning_rate: f64) -> Kept {
        let digest = format!("{name:0>64}");
        let schedule = Schedule { warmup_rounds: 3, kind: ScheduleKind::Cosine { rounds: 9, final_ratio: 0.1 } };
        let group = Group {
            name: "no-decay".into(),
            tensors: TensorFilter { keys: vec!["*.bias".into()], maximum_axes: Some(1), ..TensorFilter::default() },
            hyperparameters: vec![("weight_decay".into(), "0".into())],
            learning_rate_multiplier: 0.1 + 0.2,
        };
        Kept {
            optimizer: OptimizerStatus { name: name.into(), version: "1.0.0".into(), publisher: "0".into(), digest },
            options: DeployOptions {
                learning_rate: Some(learning_rate),
                schedule: Some(schedule),
                hyperparameters: vec![("beta1".into(), "0.8".into())],
                groups: vec![group],
            },
        }
    }

    /// A folder that is removed at the end of its test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("stepbox-archive-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        fn components(&self) -> Vec<String> {
            let entries = fs::read_dir(self.0.join(FOLDER)).expect("the folder").flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("a name")).collect();
            names.retain(|name| name != INDEX);
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn deploy(archive: &mut Archive, kept: &Kept) {
        let _lease = archive.keep(&kept.optimizer.digest, kept.optimizer.name.as_bytes()).expect("kept");
        archive.deployed(kept.clone()).expect("saved");
    }

    #[test]
    fn the_last_deployments_are_kept_with_their_options_bit_for_bit_and_no_more_of_them() {
        let folder = Folder::new("deployments");
        let mut archive = Archive::open(&folder.0);
        let all: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| kept(name, 1.0 / 3.0)).into();
        all.iter().for_each(|kept| deploy(&mut archive, kept));
        deploy(&mut archive, &all[4]);
        let expected: Vec<_> = [3, 2, 1].map(|index: usize| all[index].clone()).into();
        assert_eq!(archive.previous(), expected, "the same again is none to go back to");
        assert_eq!(folder.components().len(), 1 + MAX_PREVIOUS_DEPLOYMENTS);

        let mut archive = Archive::open(&folder.0);
        assert_eq!(archive.previous()[0], all[4], "after a restart nothing runs, and the newest comes first");
        assert_eq!(archive.previous()[1..], expected);
        assert_eq!(archive.read(&all[3].optimizer.digest, 100).expect("its bytes"), b"d");
        archive.rolled_back(&all[2]).expect("saved");
        assert_eq!(archive.previous(), [all[1].clone()]);
        assert_eq!(folder.components().len(), 2, "what was rolled back from is gone");
    }

    #[cfg(unix)]
    #[test]
    fn files_are_for_their_owner_alone_and_links_and_large_ones_are_not_read() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new("modes");
        let archive = Archive::open(&folder.0);
        let _lease = archive.keep("00", b"12345").expect("kept");
        let path = archive.path("00");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&archive.folder)), (0o600, 0o700));
        assert_eq!(archive.read("00", 5).expect("its bytes"), b"12345");
        assert!(archive.read("00", 4).is_err());
        std::os::unix::fs::symlink(&path, archive.path("11")).expect("a link");
        assert!(archive.read("11", 5).is_err());
    }

    #[test]
    fn a_damaged_index_is_an_empty_one() {
        let folder = Folder::new("damaged");
        let mut archive = Archive::open(&folder.0);
        deploy(&mut archive, &kept("a", 0.1));
        fs::write(archive.folder.join(INDEX), "deployed = 3").expect("written");
        let mut archive = Archive::open(&folder.0);
        assert!(archive.previous().is_empty());
        deploy(&mut archive, &kept("b", 0.1));
        assert_eq!(folder.components(), [format!("{:0>64}.wasm", "b"), "index.damaged".to_owned()]);
    }

    #[test]
    fn the_beginning_of_an_index_is_no_index() {
        let folder = Folder::new("cut-off");
        let mut archive = Archive::open(&folder.0);
        deploy(&mut archive, &kept("a", 0.1));
        archive.submit(submission("b")).expect("saved");
        let path = archive.folder.join(INDEX);
        let whole = fs::read(&path).expect("the index");
        for length in 0..whole.len() - 1 {
            fs::write(&path, &whole[..length]).expect("written");
            let archive = Archive::open(&folder.0);
            assert!(archive.previous().is_empty() && archive.submitted().is_empty(), "{length} bytes");
        }
        fs::write(&path, &whole).expect("written");
        let archive = Archive::open(&folder.0);
        assert_eq!((archive.previous().len(), archive.submitted().len()), (1, 1));
    }

    #[test]
    fn a_submission_that_could_not_be_withdrawn_is_still_there() {
        let folder = Folder::new("withdraw");
        let mut archive = Archive::open(&folder.0);
        archive.submit(submission("a")).expect("saved");
        archive.submit(submission("b")).expect("saved");
        // A folder in the index's place: writing fails for every user, root too.
        let path = archive.folder.join(INDEX);
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("a folder");
        archive.withdraw(&submission("a").component.digest).expect_err("the index cannot be replaced");
        assert_eq!(archive.submitted(), [submission("a"), submission("b")]);
        fs::remove_dir(&path).expect("removed");
        assert!(archive.withdraw(&submission("a").component.digest).expect("saved"));
        assert_eq!(Archive::open(&folder.0).submitted(), [submission("b")]);
    }

    fn submission(digest: &str) -> SubmissionStatus {
        let component = kept(digest, 0.1).optimizer;
        SubmissionStatus { component, bytes: 1, submitted_by: "carol".into(), submitted_at: 0 }
    }

    #[test]
    fn what_is_being_deployed_outlives_others_that_come_and_go_meanwhile() {
        let folder = Folder::new("in-flight");
        let mut archive = Archive::open(&folder.0);
        let (deploying, other) = (kept("a", 0.1), submission("b"));
        let lease = archive.keep(&deploying.optimizer.digest, b"a").expect("kept");
        let again = archive.keep(&deploying.optimizer.digest, b"a").expect("kept");
        drop(archive.keep(&other.component.digest, b"b").expect("kept"));
        archive.submit(other.clone()).expect("saved");
        drop(again);
        assert!(archive.withdraw(&other.component.digest).expect("saved"));
        assert_eq!(archive.read(&deploying.optimizer.digest, 1).expect("it is there"), b"a");
        archive.deployed(deploying.clone()).expect("saved");
        drop(lease);
        deploy(&mut archive, &kept("c", 0.1));
        assert_eq!(archive.read(&deploying.optimizer.digest, 1).expect("to go back to"), b"a");

        let failed = archive.keep(&kept("d", 0.1).optimizer.digest, b"d").expect("kept");
        drop(failed);
        deploy(&mut archive, &kept("e", 0.1));
        assert_eq!(folder.components().len(), 3, "what was not deployed is gone");
    }

    #[test]
    fn an_index_that_could_not_be_read_again_is_not_written() {
        let folder = Folder::new("large");
        let mut archive = Archive::open(&folder.0);
        deploy(&mut archive, &kept("a", 0.1));
        let mut large = submission("b");
        large.submitted_by = "\u{1}".repeat(MAX_INDEX_BYTES as usize / 6);
        let error = archive.submit(large).expect_err("too large");
        assert!(error.to_string().contains("index"), "{error}");
        archive.submit(submission("c")).expect("there is room for others");
        let archive = Archive::open(&folder.0);
        assert_eq!((archive.submitted(), archive.index.deployed.len()), (&[submission("c")][..], 1));
    }

    #[test]
    fn options_that_could_not_be_read_again_are_none() {
        let mut options = kept("a", 0.1).options;
        check_options(&options).expect("options as anybody has them");
        let kind = ScheduleKind::Cosine { rounds: u64::MAX, final_ratio: 0.0 };
        options.schedule = Some(Schedule { warmup_rounds: 0, kind });
        check_options(&options).expect("the highest round that there can be");
        let mut options = kept("a", 0.1).options;
        options.hyperparameters[0].1 = "\u{1}".repeat(MAX_OPTIONS_BYTES / 6);
        check_options(&options).expect_err("as TOML, they are six times as long");
    }
}
