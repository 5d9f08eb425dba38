//! Ed25519 keys (RFC 8032) and their files: PEM as `openssl` reads and writes it (RFC 8410).

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ed25519::pkcs8::spki::der::pem::LineEnding;
use ed25519::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes};
use ed25519_dalek::{Signature, Signer, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::exposure::{Exposure, exposure};
use crate::{file, hex};

/// An Ed25519 key file in PEM has about 120 bytes; this leaves room for comments and refuses the wrong file early.
const MAX_KEY_FILE_BYTES: usize = 16 * 1024;

const PUBLIC_KEY_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PUBLIC_KEY_END: &str = "-----END PUBLIC KEY-----";

/// Names a public key: the first 12 bytes of HMAC-SHA-256 with the 32 bytes of the public key as key and the text
/// `key_id` as message, the identifier `wasmsign2` gives to keys. Printed as 24 hexadecimal digits.
///
/// It only names: a signature is always checked with the whole key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; Self::BYTES]);

impl KeyId {
    /// Length of a key id.
    pub const BYTES: usize = 12;

    /// The 12 bytes.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    pub(crate) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, formatter)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        hex::parse(text).map(Self).ok_or_else(|| KeyError::KeyId(text.to_owned()))
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A publisher's public key.
///
/// [`fmt::Display`] is one line, the base64 text between the lines of the PEM file; [`FromStr`] reads that line or the
/// whole PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// The key's name.
    pub fn id(&self) -> KeyId {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(b"key_id");
        let tag = mac.finalize().into_bytes();
        let mut id = [0; KeyId::BYTES];
        id.copy_from_slice(&tag[..KeyId::BYTES]);
        KeyId(id)
    }

    /// The key's 32 bytes, as RFC 8032 encodes them.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// PEM (`SubjectPublicKeyInfo`, RFC 8410), what `openssl pkey -pubin` reads.
    pub fn to_pem(&self) -> String {
        #[expect(clippy::expect_used, reason = "32 bytes always fit into DER")]
        self.0.to_public_key_pem(LineEnding::LF).expect("32 bytes always fit into DER")
    }

    /// Reads a PEM file.
    ///
    /// # Errors
    /// [`KeyError`] naming the file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let text = File::open(path)
            .and_then(|file| file::read_text(file, MAX_KEY_FILE_BYTES))
            .map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        if text.trim().is_empty() {
            return Err(KeyError::Empty { path: path.to_owned() });
        }
        text.parse().map_err(|_| KeyError::NotAPublicKey { path: path.to_owned() })
    }

    /// Writes a PEM file that did not exist before.
    ///
    /// # Errors
    /// [`KeyError::Exists`] where the file exists, [`KeyError::Write`] where it cannot be written.
    pub fn create_file(&self, path: impl AsRef<Path>) -> Result<(), KeyError> {
        create_new(path.as_ref(), self.to_pem().as_bytes(), file::PUBLIC_MODE)
    }

    /// Whether this key made the signature of the message, checked strictly: one message and key have one encoding of
    /// a valid signature only, and keys of small order verify nothing.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_pem().lines().filter(|line| !line.starts_with('-')).try_for_each(|line| formatter.write_str(line))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let key = if text.starts_with('-') {
            VerifyingKey::from_public_key_pem(text)
        } else {
            VerifyingKey::from_public_key_pem(&format!("{PUBLIC_KEY_BEGIN}\n{text}\n{PUBLIC_KEY_END}\n"))
        };
        match key {
            // A key of small order would accept signatures nobody made.
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            _ => Err(KeyError::PublicKeyText),
        }
    }
}

/// A publisher's secret key. Wiped from memory when dropped; [`fmt::Debug`] shows the key id only.
///
/// Boxed, so that the bytes stay in one place: what is moved leaves a copy behind that nobody wipes.
pub struct SigningKey(Box<ed25519_dalek::SigningKey>);

/// The key wipes itself, or this does not compile.
const _: () = {
    const fn wipes_itself<T: zeroize::ZeroizeOnDrop>() {}
    wipes_itself::<ed25519_dalek::SigningKey>();
};

impl SigningKey {
    /// A new key from the operating system's random numbers.
    ///
    /// # Errors
    /// [`KeyError::Randomness`] where the operating system has none to give.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(|source| KeyError::Randomness { source })?;
        Ok(Self(Box::new(ed25519_dalek::SigningKey::from_bytes(&seed))))
    }

    /// The key of a seed that everybody may know, for fuzzing.
    pub(crate) fn of_seed(seed: &[u8; 32]) -> Self {
        Self(Box::new(ed25519_dalek::SigningKey::from_bytes(seed)))
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Writes the key to a file that did not exist before, readable by its owner only (mode 0600): PEM (PKCS#8,
    /// RFC 8410), what `openssl pkey` reads.
    ///
    /// # Errors
    /// [`KeyError::Exists`] where the file exists, [`KeyError::Write`] where it cannot be written.
    pub fn create_file(&self, path: impl AsRef<Path>) -> Result<(), KeyError> {
        // Version 1 of PKCS#8, without the public key: not every tool reads version 2.
        let pair = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        #[expect(clippy::expect_used, reason = "32 bytes always fit into DER")]
        let pem = pair.to_pkcs8_pem(LineEnding::LF).expect("32 bytes always fit into DER");
        create_new(path.as_ref(), pem.as_bytes(), file::PRIVATE_MODE)
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`KeyError::TooOpen`] where others than the owner may read or write it, [`KeyError::Foreign`] where it is
    /// another user's; [`KeyError`] naming the file otherwise.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let read_error = |source| KeyError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read_error)?;
        match exposure(&file).map_err(read_error)? {
            None => {}
            Some(Exposure::Mode(mode)) => return Err(KeyError::TooOpen { path: path.to_owned(), mode }),
            Some(Exposure::Owner { owner, user }) => {
                return Err(KeyError::Foreign { path: path.to_owned(), owner, user });
            }
        }
        let text = file::read_text(file, MAX_KEY_FILE_BYTES).map(Zeroizing::new).map_err(read_error)?;
        let text = text.trim();
        if text.is_empty() {
            return Err(KeyError::Empty { path: path.to_owned() });
        }
        ed25519_dalek::SigningKey::from_pkcs8_pem(text)
            .map(|key| Self(Box::new(key)))
            .map_err(|_| KeyError::NotASigningKey { path: path.to_owned(), form: form(text) })
    }

    /// The Ed25519 signature of a message (RFC 8032).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SigningKey({})", self.public_key().id())
    }
}

fn create_new(path: &Path, content: &[u8], mode: u32) -> Result<(), KeyError> {
    file::create_file(path, content, mode).map_err(|source| {
        if source.kind() == io::ErrorKind::AlreadyExists {
            KeyError::Exists { path: path.to_owned() }
        } else {
            KeyError::Write { path: path.to_owned(), source }
        }
    })
}

/// What a text is that is no Ed25519 signing key in PKCS#8, and how to get one, by its first line.
fn form(text: &str) -> &'static str {
    let is = |label: &str| text.lines().any(|line| line.trim() == format!("-----BEGIN {label}-----"));
    if is("ENCRYPTED PRIVATE KEY") {
        "it is encrypted, which is not supported: decrypt it with `openssl pkey -in FILE -out NEW` after `umask 077`"
    } else if is("OPENSSH PRIVATE KEY") {
        "it is a key of OpenSSH: make one with `stepbox key new`"
    } else if is("PRIVATE KEY") || is("EC PRIVATE KEY") || is("RSA PRIVATE KEY") {
        "it is of another kind, such as RSA or ECDSA, or damaged: make one with `stepbox key new`"
    } else if is("PUBLIC KEY") {
        "it is a public key: give the file beside it, without `.pub`"
    } else {
        "make one with `stepbox key new`"
    }
}

/// What can be wrong with a key, its text or its file. The operator's or publisher's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is no key id.
    #[error("`{0}` is no key id: it takes 24 hexadecimal digits, as `stepbox key new` prints them")]
    KeyId(String),
    /// The text is no public key.
    #[error(
        "no Ed25519 public key: it takes the base64 line of a `.pub` file that `stepbox key new` wrote, \
         or the whole PEM text"
    )]
    PublicKeyText,
    /// The file holds no public key.
    #[error(
        "{} holds no Ed25519 public key in PEM; `stepbox key new` writes one beside each signing key, as `.pub`",
        path.display()
    )]
    NotAPublicKey {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no signing key.
    #[error("{} holds no Ed25519 signing key in PEM (PKCS#8, not encrypted): {form}", path.display())]
    NotASigningKey {
        /// The file.
        path: PathBuf,
        /// What it holds, and what to do.
        form: &'static str,
    },
    /// The file has nothing in it.
    #[error(
        "key file {} is empty, as a full disk can leave it: restore it from a backup if it ever held a key; otherwise \
         remove it and make the key again",
        path.display()
    )]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Others than the owner have access to the file.
    #[error(
        "signing key {0} has mode {mode:04o}: others may have read it. Run `chmod 600 {0}`, and make a new key if \
         somebody else could use this machine",
        path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is another user's, who can read and replace it.
    #[error(
        "signing key {0} belongs to user {owner}, and this process runs as user {user}: run it as that user, or run \
         `chown {user} {0}` and make a new key if that user is somebody else",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
    /// The file exists already.
    #[error("{} exists and keys are never overwritten: choose another name, or move it away", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read key file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write key file {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operating system gives no random numbers.
    #[error("the operating system gives no random numbers for a key: {source}")]
    Randomness {
        /// Why.
        source: getrandom::Error,
    },
}
