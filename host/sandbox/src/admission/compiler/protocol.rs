//! What server, broker and worker say to each other, over pipes. Everything that has a length is read no further than a
//! bound, and takes no more memory than has arrived.
//!
//! Between server and broker, a number stands before each request, and the same before its answer: a server that has
//! stopped waiting for an answer knows by it that one is late.
//!
//! | request | bytes |
//! |---|---|
//! | mark | 8 |
//! | metering | 1 |
//! | WebAssembly stack, little-endian | 8 |
//! | length of the component, little-endian; 0 asks how a worker is confined | 8 |
//! | the component | as said |
//!
//! What compiling may take is not in it: the broker has that from its start ([`Terms`](super::terms::Terms)).
//!
//! | answer | bytes |
//! |---|---|
//! | which of [`Answer`] | 1 |
//! | length of the rest, little-endian | 8 |
//! | code, text or the limit's number | as said |

use std::io::{self, ErrorKind, Read, Write};

use crate::instance::engine::Metering;

/// Bytes of an answer's number, kind and length.
const HEADER_BYTES: usize = 17;

/// What arrives of an answer is read in pieces of at most this many bytes: no more memory is taken than has been sent.
const PIECE_BYTES: usize = 1 << 20;

/// Tells other versions apart, and programs that are no broker at all.
const MARK: &[u8; 8] = b"stepbox\x83";

/// Longest component that is taken for compilation, in bytes. What a server takes from its peers has a limit of its own,
/// far below.
pub(crate) const MAX_COMPILED_COMPONENT_BYTES: u64 = 1 << 30;

/// Longest text of an answer, in bytes: an error with its causes.
pub(crate) const MAX_ANSWER_TEXT_BYTES: u64 = 16 << 10;

/// A component to be compiled.
pub(super) struct Request<C> {
    pub(super) metering: Metering,
    pub(super) stack_bytes: u64,
    /// Nothing, to be told how a worker is confined.
    pub(super) component: C,
}

impl<C: AsRef<[u8]>> Request<C> {
    pub(super) fn write(&self, writer: &mut impl Write) -> io::Result<()> {
        let component = self.component.as_ref();
        let mut header = MARK.to_vec();
        header.push(metering_number(self.metering));
        for number in [self.stack_bytes, component.len() as u64] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        writer.write_all(&header)?;
        writer.write_all(component)?;
        writer.flush()
    }
}

impl Request<Vec<u8>> {
    /// The next request. `None` where nobody will ask anything any more.
    pub(super) fn read(reader: &mut impl Read) -> io::Result<Option<Self>> {
        let mut mark = [0; MARK.len()];
        match reader.read_exact(&mut mark) {
            Ok(()) if mark == *MARK => {}
            Ok(()) => return Err(wrong("no request")),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let [metering] = read_array(reader)?;
        let metering = metering_from(metering).ok_or_else(|| wrong("no metering"))?;
        let stack_bytes = read_number(reader)?;
        let component = read_payload(reader, MAX_COMPILED_COMPONENT_BYTES)?;
        Ok(Some(Self { metering, stack_bytes, component }))
    }
}

/// What became of a component.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Native code.
    Code(Vec<u8>),
    /// The compiler does not take it.
    Invalid(String),
    /// It takes too much.
    Limit(Exceeded),
    /// The worker was ended from outside.
    Killed(String),
    /// The worker could not start, or crashed.
    Failed(String),
    /// Nothing was to be compiled: what the worker has given up.
    Confined(String),
    /// The same: why it has not given up what it should.
    Unconfined(String),
}

/// Which limit a worker reached; the server knows what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exceeded {
    Memory = 1,
    ProcessorTime = 2,
    Deadline = 3,
    Code = 4,
    Stack = 5,
}

impl Answer {
    pub(super) fn write(&self, writer: &mut impl Write) -> io::Result<()> {
        let number;
        let (tag, payload): (u8, &[u8]) = match self {
            Self::Code(code) => (0, code),
            Self::Invalid(text) => (1, cut(text)),
            Self::Limit(limit) => {
                number = [*limit as u8];
                (2, &number)
            }
            Self::Killed(text) => (3, cut(text)),
            Self::Failed(text) => (4, cut(text)),
            Self::Confined(text) => (5, cut(text)),
            Self::Unconfined(text) => (6, cut(text)),
        };
        writer.write_all(&[tag])?;
        writer.write_all(&(payload.len() as u64).to_le_bytes())?;
        writer.write_all(payload)?;
        writer.flush()
    }

    /// An answer with no more code than this: where there is more, an answer that says so, without having read it.
    pub(super) fn read(reader: &mut impl Read, most_code: u64) -> io::Result<Self> {
        let [tag] = read_array(reader)?;
        let mut text = || {
            let bytes = read_payload(reader, MAX_ANSWER_TEXT_BYTES)?;
            io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(match tag {
            0 => match read_payload(reader, most_code) {
                Err(error) if error.kind() == ErrorKind::FileTooLarge => Self::Limit(Exceeded::Code),
                code => Self::Code(code?),
            },
            1 => Self::Invalid(text()?),
            2 => match read_payload(reader, 1)?[..] {
                [1] => Self::Limit(Exceeded::Memory),
                [2] => Self::Limit(Exceeded::ProcessorTime),
                [3] => Self::Limit(Exceeded::Deadline),
                [4] => Self::Limit(Exceeded::Code),
                [5] => Self::Limit(Exceeded::Stack),
                _ => return Err(wrong("no limit")),
            },
            3 => Self::Killed(text()?),
            4 => Self::Failed(text()?),
            5 => Self::Confined(text()?),
            6 => Self::Unconfined(text()?),
            _ => return Err(wrong("no answer")),
        })
    }
}

/// An answer with the number of its request.
pub(super) fn write_numbered(number: u64, answer: &Answer, writer: &mut impl Write) -> io::Result<()> {
    writer.write_all(&number.to_le_bytes())?;
    answer.write(writer)
}

/// The number of the next request. `None` where nobody will ask anything any more.
pub(super) fn read_request_number(reader: &mut impl Read) -> io::Result<Option<u64>> {
    match read_number(reader) {
        Ok(number) => Ok(Some(number)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads numbered answers. What has arrived of one stays here when reading fails, and reading goes on from there.
#[derive(Debug, Default)]
pub(super) struct Answers {
    arrived: Vec<u8>,
}

impl Answers {
    /// The next answer, with no more code than this, and its number.
    pub(super) fn next(&mut self, reader: &mut impl Read, most_code: u64) -> io::Result<(u64, Answer)> {
        self.fill(reader, HEADER_BYTES)?;
        let header: [u8; HEADER_BYTES] = self.arrived[..HEADER_BYTES].try_into().map_err(|_| wrong("no answer"))?;
        let length = u64::from_le_bytes(header[9..].try_into().map_err(|_| wrong("no answer"))?);
        if length > most_code.max(MAX_ANSWER_TEXT_BYTES) {
            return Err(wrong("an answer that is too long"));
        }
        self.fill(reader, HEADER_BYTES + length as usize)?;
        let arrived = std::mem::take(&mut self.arrived);
        let mut answer = &arrived[..];
        Ok((read_number(&mut answer)?, Answer::read(&mut answer, most_code)?))
    }

    /// Reads on until so many bytes have arrived.
    fn fill(&mut self, reader: &mut impl Read, wanted: usize) -> io::Result<()> {
        while self.arrived.len() < wanted {
            let there = self.arrived.len();
            self.arrived.resize(wanted.min(there + PIECE_BYTES), 0);
            let read = reader.read(&mut self.arrived[there..]);
            self.arrived.truncate(there + read.as_ref().map_or(0, |read| *read));
            if read? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

fn metering_number(metering: Metering) -> u8 {
    match metering {
        Metering::Off => 0,
        Metering::Fuel => 1,
        Metering::Epochs => 2,
        Metering::FuelAndEpochs => 3,
    }
}

fn metering_from(number: u8) -> Option<Metering> {
    [Metering::Off, Metering::Fuel, Metering::Epochs, Metering::FuelAndEpochs].get(usize::from(number)).copied()
}

fn cut(text: &str) -> &[u8] {
    &text.as_bytes()[..text.len().min(MAX_ANSWER_TEXT_BYTES as usize)]
}

fn read_array<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_number(reader: &mut impl Read) -> io::Result<u64> {
    read_array(reader).map(u64::from_le_bytes)
}

/// A length and as many bytes.
fn read_payload(reader: &mut impl Read, most: u64) -> io::Result<Vec<u8>> {
    let length = read_number(reader)?;
    if length > most {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let mut payload = Vec::new();
    reader.take(length).read_to_end(&mut payload)?;
    if payload.len() as u64 == length { Ok(payload) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl Fn(&mut Vec<u8>) -> io::Result<()>) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes).expect("a vector takes everything");
        bytes
    }

    #[test]
    fn requests_come_back_and_end_where_nobody_asks() {
        for metering in [Metering::Off, Metering::Fuel, Metering::Epochs, Metering::FuelAndEpochs] {
            let request = Request { metering, stack_bytes: 5, component: b"component" };
            let bytes = written(|bytes| request.write(bytes));
            let mut reader = &bytes[..];
            let read = Request::read(&mut reader).expect("our own request").expect("one");
            assert_eq!((read.metering, read.stack_bytes), (metering, 5));
            assert_eq!(read.component, b"component");
            assert!(Request::read(&mut reader).expect("an end").is_none());
        }
    }

    #[test]
    fn answers_come_back_and_too_much_code_is_not_read() {
        let text = || "text".to_owned();
        let limits = [Exceeded::Memory, Exceeded::ProcessorTime, Exceeded::Deadline, Exceeded::Code, Exceeded::Stack];
        let mut answers =
            vec![Answer::Code(vec![7; 100]), Answer::Invalid(text()), Answer::Killed(text()), Answer::Failed(text())];
        answers.extend([Answer::Confined(text()), Answer::Unconfined(text())]);
        answers.extend(limits.map(Answer::Limit));
        for answer in answers {
            let bytes = written(|bytes| answer.write(bytes));
            assert_eq!(Answer::read(&mut &bytes[..], 100).expect("our own answer"), answer);
            for end in 0..bytes.len() {
                assert!(Answer::read(&mut &bytes[..end], 100).is_err(), "{answer:?} cut at {end}");
            }
        }
        let code = written(|bytes| Answer::Code(vec![7; 101]).write(bytes));
        assert_eq!(Answer::read(&mut &code[..9], 100).expect("a limit"), Answer::Limit(Exceeded::Code));
    }

    /// Gives one byte at a time, and then has nothing to give, as a pipe that is waited for too long.
    struct Dripping<'a>(&'a [u8], bool);

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 { self.0.read(&mut buffer[..1]) } else { Err(ErrorKind::TimedOut.into()) }
        }
    }

    #[test]
    fn an_answer_that_is_waited_for_several_times_comes_whole_with_its_number() {
        let bytes = written(|bytes| {
            write_numbered(7, &Answer::Invalid("late".into()), bytes)?;
            write_numbered(8, &Answer::Code(vec![1; 40]), bytes)
        });
        let (mut pipe, mut answers) = (Dripping(&bytes, false), Answers::default());
        let mut next = || {
            loop {
                match answers.next(&mut pipe, 100) {
                    Err(error) if error.kind() == ErrorKind::TimedOut => {}
                    other => return other,
                }
            }
        };
        assert_eq!(next().expect("the first"), (7, Answer::Invalid("late".into())));
        assert_eq!(next().expect("the second"), (8, Answer::Code(vec![1; 40])));
        assert_eq!(next().expect_err("no third").kind(), ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), ours: bool) {
            let bytes = if ours { [&MARK[..], &bytes].concat() } else { bytes };
            let _ = Request::read(&mut &bytes[..]);
            let _ = Answer::read(&mut &bytes[..], 100);
            let _ = Answers::default().next(&mut &bytes[..], 100);
        }
    }
}
