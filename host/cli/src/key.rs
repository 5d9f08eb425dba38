//! `stepbox key`: publishers' keys.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use stepbox_trust::{KeyId, SigningKey};

use crate::output::{Failure, Report};

/// Make keys to sign optimizers with
#[derive(Args)]
pub(crate) struct Key {
    #[command(subcommand)]
    verb: KeyVerb,
}

#[derive(Subcommand)]
enum KeyVerb {
    New(New),
}

/// Make a new signing key
#[derive(Args)]
#[command(after_help = "\
Writes FILE, which stays with you (mode 0600), and FILE.pub, whose text goes into the trust files of servers. Both are
PEM; `openssl pkey` reads them.

Example:
  stepbox key new --out publisher.key")]
struct New {
    /// Where the signing key goes; never overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Key {
    pub(crate) fn run(&self) -> Result<impl Report + use<>, Failure> {
        let KeyVerb::New(verb) = &self.verb;
        verb.run()
    }
}

impl New {
    fn run(&self) -> Result<NewKey, Failure> {
        let mut public_file = OsString::from(&self.out);
        public_file.push(".pub");
        let public_file = PathBuf::from(public_file);

        let key = SigningKey::generate()?;
        let public_key = key.public_key();
        public_key.create_file(&public_file)?;
        if let Err(error) = key.create_file(&self.out) {
            // A public key without its other half would only mislead.
            let _ = fs::remove_file(&public_file);
            return Err(error.into());
        }
        Ok(NewKey {
            key_file: self.out.clone(),
            public_key_file: public_file,
            key_id: public_key.id(),
            public_key: public_key.to_string(),
        })
    }
}

#[derive(Serialize)]
struct NewKey {
    key_file: PathBuf,
    public_key_file: PathBuf,
    key_id: KeyId,
    public_key: String,
}

impl Report for NewKey {
    fn text(&self) -> String {
        format!(
            "signing key  {}  (keep it to yourself)\n\
             public key   {}\n\
             key id       {}\n\n\
             A server trusts this key with these lines in its trust file, before the last one, which is `[end]`:\n\n\
             [[publisher]]\n\
             name = \"your name\"\n\
             public_key = \"{}\"",
            self.key_file.display(),
            self.public_key_file.display(),
            self.key_id,
            self.public_key
        )
    }
}
