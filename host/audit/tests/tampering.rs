//! What somebody without the key does to the files behind the server's back: while it is down, and while it writes them.

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use common::{Log, deployment, kinds};
use stepbox_audit::{
    AuditConfig, AuditLog, FindingKind, HEAD_FILE, MIN_FILE_BYTES, Note, Record, STOP, Tail, files_of, verify,
};
use stepbox_trust::SigningKey;

const PATIENCE: Duration = Duration::from_secs(60);

fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

fn is_torn(note: &Note) -> bool {
    matches!(note, Note::Torn { .. })
}

/// A line as the server would write it, without its signature, and with one that is made up.
fn forged(sequence: u64) -> Vec<String> {
    let line = format!(
        r#"{{"sequence":{sequence},"time":"2026-01-31T12:00:00.000000Z","server":"ps-1","action":"deploy","outcome":"allowed","identity":"mallory","previous":"{}""#,
        "0".repeat(64)
    );
    vec![format!("{line}}}"), format!(r#"{line},"signature":"{}=="}}"#, "A".repeat(86))]
}

#[test]
fn whole_lines_that_the_server_has_not_signed_are_tampering_and_no_torn_write() {
    for end in ["", "\n"] {
        for line in forged(5).into_iter().chain(["{}".into(), "rubbish".into(), "\n".into()]) {
            for lines in [format!("{line}{end}"), format!("{line}\n{line}{end}"), format!("{line}\n{{\"seq{end}")] {
                let log = Log::new();
                log.run(2);
                append(&log.only_file(), lines.as_bytes());
                let before = log.verify();
                let kinds_before = kinds(&before);
                assert!(!kinds_before.is_empty(), "{lines:?}");
                assert!(kinds_before.iter().all(|kind| *kind == FindingKind::BadSignature), "{kinds_before:?}");

                // The server goes on, vouches for nothing of it, and says so.
                let damaged = log.open().status().damaged;
                assert!(damaged.as_ref().is_some_and(|damaged| damaged.contains("not signed")), "{damaged:?}");
                log.run(1);
                let after = log.verify();
                let expected: Vec<_> = kinds_before.into_iter().chain([FindingKind::Recorded]).collect();
                assert_eq!(kinds(&after), expected, "{lines:?}");
                assert!(!before.notes.iter().chain(&after.notes).any(is_torn), "{lines:?}");
                assert_eq!(after.newest.unwrap().sequence, 8, "each number is used once, and in order");
            }
        }
    }
}

#[test]
fn a_crash_after_a_crash_is_no_tampering() {
    let log = Log::new();
    log.run(1);
    for torn in ["{\"sequence\":4,\"time\":\"20", "\n", "{", "\n{\"sequ"] {
        append(&log.only_file(), torn.as_bytes());
        let verified = log.verify();
        assert_eq!(kinds(&verified), [], "{torn:?}");
        assert_eq!(verified.notes.iter().filter(|note| is_torn(note)).count(), 1);
    }
    log.run(1);
    let verified = log.verify();
    assert_eq!(kinds(&verified), []);
    assert!(verified.notes.iter().any(is_torn), "{:?}", verified.notes);
    assert_eq!(log.open().status().damaged, None);
}

#[test]
fn forged_lines_choose_no_number_for_the_server() {
    for sequence in [u64::MAX, u64::MAX - 1, 1 << 60] {
        // More of them than the server looks back over.
        let lines = format!("{}\n", forged(sequence)[1]).repeat(2000);
        for is_head_there in [true, false] {
            let log = Log::new();
            log.run(2);
            append(&log.only_file(), lines.as_bytes());
            if !is_head_there {
                fs::remove_file(log.directory().join(HEAD_FILE)).unwrap();
            }
            let damaged = log.open().status().damaged.expect("the status says so");
            assert!(damaged.contains("behind line 4 are not signed"), "{damaged}");
            log.run(1);
            let verified = log.verify();
            assert!(kinds(&verified).contains(&FindingKind::BadSignature));
            assert!(verified.newest.unwrap().sequence < 10, "{:?}", verified.newest);
        }
    }
}

#[test]
fn a_file_that_is_moved_removed_or_replaced_is_noticed_and_the_log_goes_on_in_a_new_one() {
    let ways: [fn(&Path); 4] = [
        |path| fs::rename(path, path.with_extension("old")).unwrap(),
        |path| fs::remove_file(path).unwrap(),
        |path| {
            let copy = path.with_extension("copy");
            fs::copy(path, &copy).unwrap();
            fs::rename(copy, path).unwrap();
        },
        |path| fs::rename(path.parent().unwrap(), path.parent().unwrap().with_extension("old")).unwrap(),
    ];
    for way in ways {
        let log = Log::new();
        let writing = log.open();
        writing.confirm(deployment(0), PATIENCE).unwrap();
        let first = log.only_file();
        way(&first);
        writing.confirm(deployment(1), PATIENCE).unwrap();
        let damaged = writing.status().damaged.expect("the status says so");
        assert!(damaged.contains("audit-000001.jsonl") && damaged.contains("new file"), "{damaged}");
        writing.close(Record::new(STOP, stepbox_audit::Outcome::Noted));
        let second = first.with_file_name("audit-000002.jsonl");
        let report = verify(std::slice::from_ref(&second), &[log.public_key()], &[log.head()], true).unwrap();
        assert_eq!(kinds(&report), [FindingKind::Recorded]);
        assert_eq!((report.first, report.lines), (Some(2), 3));
        assert!(!log.verify().intact);
        // Where the moved file is put back the chain is whole.
        if let Ok(old) = fs::read(first.with_extension("old")) {
            fs::write(&first, old).unwrap();
            assert_eq!(kinds(&log.verify()), [FindingKind::Recorded]);
        }
    }
}

#[test]
fn a_file_that_is_cut_or_extended_while_it_is_written_is_noticed() {
    type Way = fn(&Path);
    let ways: [(Way, FindingKind); 3] = [
        (|path| fs::write(path, "").unwrap(), FindingKind::BeginningMissing),
        (|path| append(path, format!("{}\n", forged(3)[1]).as_bytes()), FindingKind::BadSignature),
        (|path| append(path, b"{\"sequence\":3,\"ti"), FindingKind::BadSignature),
    ];
    for (way, found) in ways {
        let log = Log::new();
        let writing = log.open();
        writing.confirm(deployment(0), PATIENCE).unwrap();
        way(&log.only_file());
        writing.confirm(deployment(1), PATIENCE).unwrap();
        let damaged = writing.status().damaged.expect("the status says so");
        assert!(damaged.contains("lines were removed or added"), "{damaged}");
        writing.close(Record::new(STOP, stepbox_audit::Outcome::Noted));
        let found_there = kinds(&log.verify());
        assert!(found_there.contains(&found) && found_there.contains(&FindingKind::Recorded), "{found_there:?}");
        assert_eq!(log.verify().newest.unwrap().sequence, 4);
    }
}

#[test]
fn forged_lines_have_the_server_vouch_for_no_lines_that_it_has_not_removed() {
    let log = Log::new();
    let config = AuditConfig { file_bytes: MIN_FILE_BYTES, ..log.config() };
    let writing = AuditLog::open(config, SigningKey::load(&log.key).unwrap()).unwrap();
    let write = |until: usize| {
        while files_of(&log.directory()).unwrap().last().unwrap().file_name().unwrap().to_str().unwrap()
            != format!("audit-{until:06}.jsonl")
        {
            writing.confirm(Record { reason: "x".repeat(2000), ..deployment(0) }, PATIENCE).unwrap();
        }
    };
    write(3);
    // What the server looks at when it removes the file before.
    let second = &files_of(&log.directory()).unwrap().swap_remove(1);
    let content = fs::read_to_string(second).unwrap();
    fs::write(second, format!("{}\n{content}", forged(1 << 40)[1])).unwrap();
    write(4);
    writing.close(Record::new(STOP, stepbox_audit::Outcome::Noted));
    fs::write(second, content).unwrap();
    let verified = log.verify();
    assert_eq!(kinds(&verified), []);
    let retired = Note::Retired { through: verified.first.unwrap() - 1 };
    assert!(verified.notes.contains(&retired), "{:?}", verified.notes);
    fs::remove_file(second).unwrap();
    assert_eq!(kinds(&log.verify()), [FindingKind::BeginningMissing]);
}

#[test]
fn what_is_torn_is_no_line_for_whoever_reads_the_log() {
    let log = Log::new();
    log.run(1);
    append(&log.only_file(), b"{\"sequence\":4,\"action\":\"dep");
    log.run(1);
    let mut tail = Tail::new(&log.directory()).unwrap();
    let mut lines = Vec::new();
    while let Some(line) = tail.next().unwrap() {
        lines.push(line.line.is_some());
    }
    assert_eq!(lines, [true, true, true, false, true, true, true]);
}
