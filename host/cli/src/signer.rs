//! Where signatures come from: a key in a file, or a program that has the key somewhere safer.

use std::env;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};
use clap::Args;
use stepbox_trust::{PublicKey, SigningKey, SigningRequest};

use crate::output::Failure;

/// Names the file of the signing key where `--key` does not. It holds a path, never the key: every process of the user
/// can read an environment.
pub(crate) const KEY_VARIABLE: &str = "STEPBOX_SIGNING_KEY";

/// How long a program may take to sign, unless `--signer-timeout` says otherwise: somebody may have to touch a token.
const SIGNER_SECONDS: u64 = 60;

/// The longest `--signer-timeout`: an hour.
const MAX_SIGNER_SECONDS: u64 = 3600;

/// A program's answer is at most this long; a signature has 64 bytes, 88 in base64.
const MAX_SIGNER_OUTPUT_BYTES: usize = 1024;

/// How often a program that has closed its output is asked whether it has ended.
const EXIT_POLL: Duration = Duration::from_millis(5);

const SIGNATURE_BYTES: usize = 64;

/// Whose signature it is to be.
#[derive(Args)]
pub(crate) struct SignerArguments {
    /// The signing key, made by `stepbox key new`; the file that $STEPBOX_SIGNING_KEY names where absent
    #[arg(long, value_name = "FILE", conflicts_with = "signer_command")]
    key: Option<PathBuf>,

    /// A program that signs instead: split into words as a shell would, run without one
    #[arg(long, value_name = "COMMAND", requires = "public_key")]
    signer_command: Option<String>,

    /// One more argument for that program, taken as it is; several may be given
    #[arg(long = "signer-argument", value_name = "TEXT", requires = "signer_command", allow_hyphen_values = true)]
    signer_arguments: Vec<String>,

    /// How many seconds that program may take
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = SIGNER_SECONDS,
        value_parser = clap::value_parser!(u64).range(1..=MAX_SIGNER_SECONDS)
    )]
    signer_timeout: u64,

    /// The public key that belongs to that program's key, in PEM
    #[arg(long, value_name = "FILE", requires = "signer_command")]
    public_key: Option<PathBuf>,
}

impl SignerArguments {
    pub(crate) fn signer(&self) -> Result<Signer, Failure> {
        if let (Some(command), Some(public_key)) = (&self.signer_command, &self.public_key) {
            let words = shlex::split(command).unwrap_or_default();
            let Some((program, arguments)) = words.split_first() else {
                return Err(failed(
                    "`--signer-command` names no program, or has a quotation mark without its other half",
                ));
            };
            return Ok(Signer::Program(Box::new(Program {
                public_key: PublicKey::load(public_key)?,
                program: program.clone(),
                arguments: arguments.iter().chain(&self.signer_arguments).cloned().collect(),
                timeout: Duration::from_secs(self.signer_timeout),
            })));
        }
        let named = || env::var_os(KEY_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        match self.key.clone().or_else(named) {
            Some(path) => Ok(Signer::Key(SigningKey::load(path)?)),
            None => Err(Failure::here(
                "key",
                format!("no signing key: give --key FILE or --signer-command, or name the file in {KEY_VARIABLE}"),
            )),
        }
    }
}

/// Something that signs.
pub(crate) enum Signer {
    Key(SigningKey),
    Program(Box<Program>),
}

impl Signer {
    pub(crate) fn public_key(&self) -> PublicKey {
        match self {
            Self::Key(key) => key.public_key(),
            Self::Program(program) => program.public_key.clone(),
        }
    }

    /// Signs; whatever made the signature, it has been verified when this returns.
    pub(crate) fn sign(&self, request: SigningRequest) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Key(key) => Ok(request.sign_with(key)?),
            Self::Program(program) => {
                let signature = program.signature(&request.message())?;
                Ok(request.finish(&signature)?)
            }
        }
    }
}

/// A program that gets the message on standard input and answers with the signature on standard output. Its errors and
/// questions stay between it and the terminal.
pub(crate) struct Program {
    public_key: PublicKey,
    program: String,
    arguments: Vec<String>,
    timeout: Duration,
}

impl Program {
    fn signature(&self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("cannot run the signer `{}`: {error}", self.program)))?;
        let answer = self.converse(&mut child, message, deadline);
        if answer.is_err() {
            // Whether or not it runs still; the error that matters is the one above.
            let _ = child.kill();
            let _ = child.wait();
        }
        decode(&answer?).ok_or_else(|| {
            failed(format!(
                "the signer `{}` printed no signature: it takes 64 bytes, or these in base64, and nothing else",
                self.program
            ))
        })
    }

    fn converse(&self, child: &mut Child, message: &[u8], deadline: Instant) -> Result<Vec<u8>, Failure> {
        if let Some(mut stdin) = child.stdin.take() {
            // So short a message fits in the pipe, so this never waits. A program that does not read it cannot sign it,
            // which shows in what it answers.
            let _ = stdin.write_all(message);
        }
        let (sender, receiver) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut answer = Vec::new();
                let read = stdout.take(MAX_SIGNER_OUTPUT_BYTES as u64 + 1).read_to_end(&mut answer);
                // Nobody waits for it any more where the time is over.
                let _ = sender.send(read.map(|_| answer));
            });
        }
        let late = || failed(format!("the signer `{}` took more than {:?}", self.program, self.timeout));
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = receiver
            .recv_timeout(left)
            .map_err(|_| late())?
            .map_err(|error| failed(format!("cannot read what the signer `{}` prints: {error}", self.program)))?;
        if answer.len() > MAX_SIGNER_OUTPUT_BYTES {
            return Err(failed(format!(
                "the signer `{}` printed more than {MAX_SIGNER_OUTPUT_BYTES} bytes; a signature has 64",
                self.program
            )));
        }
        loop {
            let ended = child
                .try_wait()
                .map_err(|error| failed(format!("cannot wait for the signer `{}`: {error}", self.program)))?;
            match ended {
                Some(status) if status.success() => return Ok(answer),
                Some(status) => return Err(failed(format!("the signer `{}` failed: {status}", self.program))),
                None if Instant::now() >= deadline => return Err(late()),
                None => thread::sleep(EXIT_POLL),
            }
        }
    }
}

/// 64 bytes as they are, or in base64 with any white space.
fn decode(answer: &[u8]) -> Option<[u8; SIGNATURE_BYTES]> {
    if let Ok(raw) = answer.try_into() {
        return Some(raw);
    }
    let text: String = std::str::from_utf8(answer).ok()?.split_ascii_whitespace().collect();
    Base64::decode_vec(&text).ok()?.try_into().ok()
}

fn failed(message: impl Into<String>) -> Failure {
    Failure::here("signer", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read_raw_and_in_base64_however_it_is_wrapped() {
        let raw: [u8; SIGNATURE_BYTES] = std::array::from_fn(|index| index as u8);
        let text = Base64::encode_string(&raw);
        let wrapped = format!("{}\n{}\r\n", &text[..76], &text[76..]);
        for answer in [&raw[..], text.as_bytes(), wrapped.as_bytes()] {
            assert_eq!(decode(answer), Some(raw));
        }
        for wrong in [&b""[..], &raw[1..], &[&raw[..], b"\n"].concat(), &text.as_bytes()[4..], b"error"] {
            assert_eq!(decode(wrong), None);
        }
    }
}
