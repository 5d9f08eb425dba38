//! A log with everything done to it that somebody without the server's key can do.

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{Log, deployment, kinds};
use stepbox_audit::{
    Anchor, AuditConfig, AuditLog, FOLD_BURST, FindingKind, HEAD_FILE, MIN_FILE_BYTES, Note, Outcome, Record, STOP,
    Tail, files_of, verify,
};
use stepbox_trust::SigningKey;

#[test]
fn a_log_that_nobody_touched_is_intact_over_several_runs() {
    let log = Log::new();
    log.run(5);
    log.run(5);
    let verified = log.verify_with(&[log.head()]);
    assert_eq!(kinds(&verified), []);
    assert_eq!((verified.lines, verified.first, verified.anchored), (14, Some(1), Some(14)));
    assert_eq!(verified.newest, Some(log.head()));
    assert_eq!(verified.notes, []);
}

#[test]
fn any_edit_is_found() {
    let log = Log::new();
    log.run(6);
    let lines = log.lines();
    for (from, to) in [("optimizer-3", "optimizer-9"), ("\"sequence\":5", "\"sequence\":6"), ("alice", "mallory")] {
        let mut edited = lines.clone();
        edited[4] = edited[4].replacen(from, to, 1);
        assert_ne!(edited, lines);
        log.write(&edited);
        assert_eq!(kinds(&log.verify()), [FindingKind::BadSignature], "{from}");
        assert_eq!(log.verify().findings[0].line, Some(5));
    }
    // Not even white space, nor a signature in another line's place.
    let mut edited = lines.clone();
    edited[4] = edited[4].replacen("{", "{ ", 1);
    log.write(&edited);
    assert_eq!(kinds(&log.verify()), [FindingKind::BadSignature]);
    let signature = |line: &str| line[line.find(",\"signature\"").unwrap()..].to_owned();
    edited[4] = lines[4].replace(&signature(&lines[4]), &signature(&lines[3]));
    log.write(&edited);
    assert_eq!(kinds(&log.verify()), [FindingKind::BadSignature]);
}

#[test]
fn deletion_repetition_and_another_order_are_found() {
    let log = Log::new();
    log.run(6);
    let lines = log.lines();
    let found = |change: &dyn Fn(&mut Vec<String>)| {
        let mut changed = lines.clone();
        change(&mut changed);
        log.write(&changed);
        kinds(&log.verify())
    };
    assert_eq!(found(&|lines| drop(lines.remove(4))), [FindingKind::Missing]);
    assert_eq!(found(&|lines| drop(lines.drain(2..5))), [FindingKind::Missing]);
    assert_eq!(found(&|lines| lines.insert(4, lines[3].clone())), [FindingKind::OutOfOrder]);
    assert_eq!(found(&|lines| lines.push(lines[1].clone())), [FindingKind::OutOfOrder]);
    assert_eq!(found(&|lines| lines.swap(3, 4)), [FindingKind::Missing, FindingKind::OutOfOrder]);
    assert_eq!(found(&|lines| lines.insert(4, "{}".into())), [FindingKind::BadSignature]);
    assert_eq!(found(&|lines| drop(lines.drain(..3))), [FindingKind::BeginningMissing]);
    assert_eq!(found(&|lines| lines.clear()), [FindingKind::Empty]);
    assert_eq!(found(&|_| {}), []);
}

#[test]
fn an_end_that_is_cut_off_is_found_by_an_anchor() {
    let log = Log::new();
    log.run(6);
    let (lines, head) = (log.lines(), log.head());
    log.write(&lines[..4]);
    let unanchored = log.verify();
    assert_eq!(kinds(&unanchored), []);
    // Nobody stopped that server in good order.
    assert_eq!((unanchored.anchored, unanchored.notes), (None, vec![Note::NotClosed]));
    assert_eq!(kinds(&log.verify_with(&[head])), [FindingKind::EndMissing]);

    let older = Anchor { sequence: 3, hash: stepbox_trust::Digest::of(format!("{}\n", lines[2]).as_bytes()) };
    assert_eq!(log.verify_with(&[older]).anchored, Some(3));
    let other = Anchor { hash: head.hash, ..older };
    assert_eq!(kinds(&log.verify_with(&[other])), [FindingKind::AnchorMismatch]);
}

#[test]
fn a_server_that_finds_its_log_cut_off_says_so_in_it_and_uses_no_number_twice() {
    let log = Log::new();
    log.run(6);
    log.write(&log.lines()[..4]);
    assert!(log.open().status().damaged.unwrap().contains("line 4"));
    log.run(0);
    let verified = log.verify();
    assert_eq!(kinds(&verified), [FindingKind::Missing, FindingKind::Recorded]);
    assert!(verified.findings[1].message.contains("line 8 had been written"), "{:?}", verified.findings);
    assert_eq!(verified.newest.unwrap().sequence, 11);
}

#[test]
fn a_head_cannot_be_made_of_the_log_and_is_missed_where_it_is_not() {
    let log = Log::new();
    log.run(6);
    let (lines, path) = (log.lines(), log.directory().join(HEAD_FILE));
    let head = || Anchor::of_head(&log.directory(), &[log.public_key()]).unwrap();
    let newest = Anchor { sequence: 8, hash: stepbox_trust::Digest::of(format!("{}\n", lines[7]).as_bytes()) };
    assert_eq!(head(), Some(newest));
    let whole = fs::read_to_string(&path).unwrap();
    log.write(&lines[..4]);
    for forged in [
        Some(format!("{}\n", lines[3])),
        Some(whole.replace("\"sequence\":8", "\"sequence\":4")),
        Some(String::new()),
        None,
    ] {
        match &forged {
            Some(forged) => fs::write(&path, forged).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        assert_eq!(head(), None, "{forged:?}");
    }
    assert_eq!(kinds(&log.verify().without_head()), [FindingKind::HeadMissing]);
    // Nor as a line of the log.
    log.write(&[&lines[..], &[whole.trim_end().to_owned()]].concat());
    assert!(!log.verify().intact);
    log.write(&lines[..4]);
    // The server misses it too, and has one again from then on.
    assert!(log.open().status().damaged.unwrap().contains("audit.head"));
    assert!(head().is_some());
    assert_eq!(kinds(&log.verify()), [FindingKind::Recorded]);
}

#[test]
fn a_log_whose_last_line_was_edited_is_no_torn_one() {
    let log = Log::new();
    log.run(2);
    let mut lines = log.lines();
    lines[3] = lines[3].replace("stop", "sTop");
    log.write(&lines);
    log.run(0);
    // That it is not signed, and that line 4 had been written and is gone.
    let expected = [FindingKind::BadSignature, FindingKind::Recorded, FindingKind::Recorded];
    assert_eq!(kinds(&log.verify()), expected);
}

#[test]
fn two_logs_of_one_key_do_not_make_one() {
    let (one, other) = (Log::new(), Log::new());
    fs::copy(&one.key, &other.key).unwrap();
    one.run(6);
    other.run(6);
    let spliced: Vec<_> = one.lines().into_iter().take(4).chain(other.lines().into_iter().skip(4)).collect();
    let (head, whole) = (one.head(), other.lines());
    one.write(&spliced);
    assert_eq!(kinds(&one.verify()), [FindingKind::BrokenChain]);
    // The whole other log in this one's place is told by an anchor alone.
    one.write(&whole);
    assert_eq!(kinds(&one.verify()), []);
    assert_eq!(kinds(&one.verify_with(&[head])), [FindingKind::AnchorMismatch]);
}

#[test]
fn another_key_signs_nothing_and_is_noticed_at_the_next_start() {
    let log = Log::new();
    log.run(2);
    let (old, old_lines) = (log.public_key(), log.lines());
    fs::remove_file(&log.key).unwrap();
    SigningKey::generate().unwrap().create_file(&log.key).unwrap();
    log.run(2);
    let old_key_alone = verify(&[log.only_file()], std::slice::from_ref(&old), &[], false).unwrap();
    assert_eq!(kinds(&old_key_alone), [FindingKind::BadSignature; 5]);
    let both = verify(&[log.only_file()], &[old, log.public_key()], &[], false).unwrap();
    assert_eq!(kinds(&both), [FindingKind::Recorded]);
    assert_eq!(both.lines, old_lines.len() as u64 + 5);
}

#[test]
fn a_line_that_was_not_written_to_its_end_is_kept_and_told_from_tampering() {
    let log = Log::new();
    drop(log.open());
    let head = fs::read(log.directory().join(HEAD_FILE)).unwrap();
    log.run(3);
    let whole = fs::read(log.only_file()).unwrap();
    let last = log.lines().pop().unwrap().len();
    for kept in [1, last / 2, last - 1, last] {
        // As a power failure leaves it: the head of these lines was not written yet either.
        fs::write(log.directory().join(HEAD_FILE), &head).unwrap();
        let torn = &whole[..whole.len() - 1 - last + kept];
        fs::write(log.only_file(), torn).unwrap();
        let before = log.verify();
        assert_eq!(kinds(&before), [], "{kept}");
        let file = log.only_file();
        let note = Note::Torn { file, bytes: kept as u64 };
        assert_eq!(before.notes.contains(&note), kept < last, "{kept}: {:?}", before.notes);

        log.run(1);
        assert!(fs::read(log.only_file()).unwrap().starts_with(torn), "kept as it is");
        let after = log.verify();
        assert_eq!(kinds(&after), [], "{kept}: {:?}", after.findings);
        assert_eq!(after.notes.contains(&note), kept < last);
        assert_eq!(after.lines, if kept < last { 4 + 3 } else { 5 + 3 });

        if kept < last {
            // The rest is vouched for as it is: neither changed nor removed.
            let lines = log.lines();
            let mut changed = lines.clone();
            changed[4].push('x');
            log.write(&changed);
            assert_eq!(kinds(&log.verify()), [FindingKind::BadSignature, FindingKind::BrokenChain]);
            changed.remove(4);
            log.write(&changed);
            assert_eq!(kinds(&log.verify()), [FindingKind::BrokenChain]);
        }
    }
}

#[test]
fn rotation_keeps_the_chain_and_removes_the_oldest_files_with_a_line_about_it() {
    let log = Log::new();
    let writing =
        AuditLog::open(AuditConfig { file_bytes: MIN_FILE_BYTES, ..log.config() }, SigningKey::load(&log.key).unwrap())
            .unwrap();
    for number in 0..40 {
        let long = Record { reason: "x".repeat(2000), ..deployment(number) };
        (0..9).for_each(|_| writing.record(long.clone()));
        writing.confirm(long, Duration::from_secs(60)).unwrap();
    }
    writing.close(Record::new(STOP, Outcome::Noted));
    let files = files_of(&log.directory()).unwrap();
    assert_eq!(files.len(), 3, "{files:?}");
    let verified = log.verify_with(&[log.head()]);
    assert_eq!(kinds(&verified), []);
    let first = verified.first.unwrap();
    assert!(first > 100 && verified.notes.contains(&Note::Retired { through: first - 1 }), "{:?}", verified.notes);

    // Less than the server has kept.
    fs::remove_file(&files[0]).unwrap();
    assert_eq!(kinds(&log.verify()), [FindingKind::BeginningMissing]);
    let part = verify(&files[1..], &[log.public_key()], &[], true).unwrap();
    assert!(part.intact && matches!(part.notes.as_slice(), [Note::Part { .. }]), "{part:?}");
    fs::remove_file(&files[1]).unwrap();
    fs::copy(&files[2], &files[1]).unwrap();
    assert!(kinds(&log.verify()).contains(&FindingKind::OutOfOrder));
}

#[test]
fn a_server_that_is_ended_before_it_has_removed_a_file_has_said_so_already() {
    let log = Log::new();
    let config = || AuditConfig { file_bytes: MIN_FILE_BYTES, files: 2, ..log.config() };
    let write = |count: usize| {
        let writing = AuditLog::open(config(), SigningKey::load(&log.key).unwrap()).unwrap();
        for number in 0..count {
            let long = Record { reason: "x".repeat(2000), ..deployment(number) };
            writing.confirm(long, Duration::from_secs(60)).unwrap_or_default();
        }
    };
    while files_of(&log.directory()).map_or(0, |files| files.len()) < 2 {
        write(5);
    }
    // What cannot be removed in its stead: the server gets as far as that, and no further.
    let oldest = files_of(&log.directory()).unwrap().swap_remove(0);
    let kept = log.directory().join("kept");
    fs::rename(&oldest, &kept).unwrap();
    fs::create_dir(&oldest).unwrap();
    while files_of(&log.directory()).unwrap().len() < 3 {
        write(5);
    }
    fs::remove_dir(&oldest).unwrap();
    fs::rename(&kept, &oldest).unwrap();
    assert_eq!(kinds(&log.verify()), [], "a file that is still there");
    fs::remove_file(&oldest).unwrap();
    let verified = log.verify();
    assert_eq!(kinds(&verified), [], "a file that is gone");
    assert!(verified.notes.contains(&Note::Retired { through: verified.first.unwrap() - 1 }), "{:?}", verified.notes);
}

#[test]
fn a_flood_of_refusals_does_not_fill_the_disk() {
    const FLOOD: u64 = 5000;
    let log = Log::new();
    let writing = log.open();
    for number in 0..FLOOD {
        let refusal = Record {
            identity: "mallory".into(),
            subject: format!("key-{}", number % 3),
            folds: true,
            ..Record::new("request", Outcome::Refused)
        };
        writing.record(refusal);
        if number % 1000 == 999 {
            // The queue is bounded; here nothing is to be lost.
            writing.confirm(deployment(0), Duration::from_secs(60)).unwrap();
        }
    }
    writing.close(Record::new(STOP, Outcome::Noted));
    let (mut tail, mut refusals, mut times) = (Tail::new(&log.directory()).unwrap(), 0, 0);
    while let Some(line) = tail.next().unwrap() {
        let line = line.line.unwrap();
        if line.record.action == "request" {
            let repeated = line.repeated.map_or(1, |repeated| {
                assert_eq!(repeated.subjects.len(), 3);
                repeated.times
            });
            (refusals, times) = (refusals + 1, times + repeated);
        }
    }
    assert_eq!(times, FLOOD);
    // More than one line tells of them only where the test took longer than the time they are gathered for.
    assert!(refusals < FLOOD / 10, "{refusals}");
    assert!(refusals > FOLD_BURST);
    assert_eq!(kinds(&log.verify()), []);
}

#[test]
fn texts_of_strangers_cannot_make_lines() {
    let log = Log::new();
    let writing = log.open();
    let hostile = "x\n{\"sequence\":2,\"signature\":\"\"}\u{1b}[2J\u{202e}";
    writing.record(Record { reason: hostile.repeat(1000), ..deployment(0) });
    writing.close(Record::new(STOP, Outcome::Noted));
    assert_eq!(log.lines().len(), 2);
    assert_eq!(kinds(&log.verify()), []);
    let text = Tail::new(&log.directory()).unwrap().next().unwrap().unwrap().line.unwrap().record.reason;
    assert!(text.len() < 2100 && !text.chars().any(char::is_control) && !text.contains('\u{202e}'), "{text}");
}

#[test]
fn a_second_server_on_the_same_log_does_not_start() {
    let log = Log::new();
    let _writing = log.open();
    let second = AuditLog::open(log.config(), SigningKey::load(&log.key).unwrap());
    assert!(second.is_err_and(|error| error.to_string().contains("another server")));
}

#[test]
fn a_disk_that_is_full_loses_events_and_the_log_says_how_many() {
    let log = Log::new();
    let writing = log.open();
    writing.confirm(deployment(0), Duration::from_secs(60)).unwrap();
    // Where its next file would be there is a folder: as good as a full disk.
    let blocked = log.directory().join("audit-000002.jsonl");
    fs::create_dir(&blocked).unwrap();
    let mut written = 1;
    let long = Record { reason: "x".repeat(2000), ..deployment(1) };
    let error = loop {
        match writing.confirm(long.clone(), Duration::from_secs(60)) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("cannot be written"), "{error}");
    assert!(writing.status().failing.is_some());
    (0..5).for_each(|number| writing.record(deployment(number)));

    fs::remove_dir(&blocked).unwrap();
    writing.confirm(deployment(2), Duration::from_secs(60)).unwrap();
    let status = writing.status();
    assert_eq!(status.failing, None);
    writing.close(Record::new(STOP, Outcome::Noted));
    let verified = log.verify();
    assert_eq!(kinds(&verified), []);
    // The five may have come in time with the last one.
    let lost = verified.notes.iter().find_map(|note| match note {
        Note::Lost { events } => Some(*events),
        _ => None,
    });
    assert_eq!(lost, Some(status.lost));
    assert!((1..=6).contains(&status.lost), "{}", status.lost);
    assert_eq!(verified.lines, written + 1 + 5 + 1 + 1 + 1 - status.lost, "{}", status.lost);
}

#[test]
fn lines_are_checked_by_hand_with_the_tools_everybody_has() {
    let log = Log::new();
    log.run(2);
    let script = r#"
        set -e
        previous() { sed -n "$1p" log/audit-000001.jsonl | sha256sum | cut -d ' ' -f 1; }
        sed -n 3p log/audit-000001.jsonl | grep -q "\"previous\":\"$(previous 2)\""
        sed -n 3p log/audit-000001.jsonl | sed 's/,"signature":"[^"]*"}$//' | tr -d '\n' > message
        sed -n 3p log/audit-000001.jsonl | sed 's/.*,"signature":"\([^"]*\)"}$/\1/' | base64 -d > signature
        openssl pkeyutl -verify -pubin -inkey log/audit.pub -rawin -in message -sigfile signature
    "#;
    let run = std::process::Command::new("sh").args(["-c", script]).current_dir(log.folder.path()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[cfg(unix)]
#[test]
fn only_the_servers_user_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let log = Log::new();
    log.run(1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&log.directory()), mode(&log.only_file())), (0o700, 0o600));
}
