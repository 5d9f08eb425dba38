//! `stepbox audit tail`: the log's lines, as they come.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use stepbox_audit::{AuditError, Line, Tail, TailLine, Timestamp};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::output::{Failure, Format, printable, quoted};

/// How often the log is looked at with `--follow`.
const POLL: Duration = Duration::from_millis(250);

/// Lines that are kept while the log's end is looked for.
const MAX_LINES: usize = 100_000;

/// Show the newest lines, and those that come
#[derive(Args)]
#[command(after_help = "\
With --json each line is printed as it stands in the log, signature included, so that what was shipped elsewhere can be
verified there. Nothing is verified here.

Examples:
  stepbox audit tail state/audit
  stepbox audit tail state/audit --since 24h
  stepbox audit tail state/audit --json --follow --since 2026-01-31T00:00:00Z | ship-to-siem")]
pub(super) struct TailVerb {
    /// The log's directory
    directory: PathBuf,

    /// How many lines, where --since does not say from when on
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=MAX_LINES as i64))]
    lines: u32,

    /// From when on: a time (RFC 3339) or how long ago, such as 90s, 15m, 24h, 7d
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,

    /// Go on with the lines that come
    #[arg(long, short)]
    follow: bool,
}

impl TailVerb {
    pub(super) fn run(&self, format: Format) -> Result<(), Failure> {
        let mut tail = Tail::new(&self.directory)?;
        match self.show(&mut tail, format) {
            // Whoever reads has seen enough, as `head` does.
            Err(Stopped::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(Stopped::Output(error)) => {
                Err(Failure::here("output", format!("cannot write to standard output: {error}")))
            }
            Err(Stopped::Log(error)) => Err(error.into()),
            Ok(()) => Ok(()),
        }
    }

    fn show(&self, tail: &mut Tail, format: Format) -> Result<(), Stopped> {
        let mut output = io::BufWriter::new(io::stdout().lock());
        let mut newest = VecDeque::new();
        while let Some(line) = tail.next()? {
            match self.since {
                Some(since) => {
                    if line.line.as_ref().is_none_or(|line| line.time >= since) {
                        print(&mut output, &line, format)?;
                    }
                }
                None => {
                    newest.push_back(line);
                    if newest.len() > self.lines as usize {
                        newest.pop_front();
                    }
                }
            }
        }
        newest.iter().try_for_each(|line| print(&mut output, line, format))?;
        output.flush()?;
        if !self.follow {
            return Ok(());
        }
        loop {
            std::thread::sleep(POLL);
            while let Some(line) = tail.next()? {
                print(&mut output, &line, format)?;
            }
            output.flush()?;
        }
    }
}

enum Stopped {
    Log(AuditError),
    Output(io::Error),
}

impl From<AuditError> for Stopped {
    fn from(error: AuditError) -> Self {
        Self::Log(error)
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn print(output: &mut impl io::Write, line: &TailLine, format: Format) -> io::Result<()> {
    match (format, &line.line) {
        (Format::Json, _) => output.write_all(&line.text)?,
        (Format::Text, Some(line)) => output.write_all(describe(line).as_bytes())?,
        (Format::Text, None) => {
            write!(output, "(no line of the log: {})", printable(&String::from_utf8_lossy(&line.text)))?;
        }
    }
    output.write_all(b"\n")
}

fn describe(line: &Line) -> String {
    let record = &line.record;
    let mut text = format!("{} {:>6} {:<9} {}", line.time, line.sequence, record.outcome.name(), record.action);
    let details = record.details.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let fields = [("by", &record.identity), ("from", &record.peer), ("code", &record.code), ("about", &record.subject)];
    for (name, value) in fields.map(|(name, value)| (name, value.as_str())).into_iter().chain(details) {
        if !value.is_empty() {
            // Writing to a string does not fail.
            let _ = write!(text, " {name}={}", quoted(value));
        }
    }
    if let Some(repeated) = &line.repeated {
        let _ = write!(text, " (repeated {} times since {})", repeated.times, repeated.since);
    }
    if !record.reason.is_empty() {
        let _ = write!(text, ": {}", record.reason);
    }
    // A line that somebody else has written may hold anything.
    printable(&text)
}

fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(time.into());
    }
    let wrong = || format!("`{text}` is neither a time such as 2026-01-31T12:00:00Z nor how long ago, such as 15m");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let ago = number.parse::<u32>().map_err(|_| wrong())?;
    let ago = Duration::from_secs(u64::from(ago) * seconds);
    OffsetDateTime::now_utc().checked_sub(ago.try_into().map_err(|_| wrong())?).map(Timestamp::from).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        assert_eq!(since("2026-01-31T13:00:00+01:00").expect("a time").to_string(), "2026-01-31T12:00:00.000000Z");
        assert!(since("1h").expect("an hour ago") < Timestamp::now());
        for wrong in ["", "h", "1", "1y", "-1h", "ä", "yesterday"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
