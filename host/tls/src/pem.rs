//! PEM files (RFC 7468) of certificates, revocation lists and private keys, read so that nothing in them is skipped.
//!
//! Parsers of PEM skip what they do not recognize. In a bundle of authorities that silently loses an authority: a block
//! after a byte order mark, an indented block, or a block that follows a file without a final line break. Here every
//! line that looks like PEM must be understood, and every block must be of an expected kind.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// What a line of PEM has, and no base64.
const DASHES: &str = "-----";

/// A PEM file is at most this large: 16 MiB, some ten thousand certificates, or a revocation list with some hundred
/// thousand entries.
pub const MAX_PEM_FILE_BYTES: usize = 16 << 20;

/// Reads a file of at most [`MAX_PEM_FILE_BYTES`].
///
/// # Errors
/// It cannot be read, or is larger.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_PEM_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_PEM_FILE_BYTES {
        let reason = format!("it has more than {MAX_PEM_FILE_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(bytes)
}

/// Why a PEM file is not used. Whose file it is has to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// There is no block of the kind that is wanted.
    #[error(
        "there is no `{}` in it; an empty file can be left by a full disk, or is still being written",
        begin(wanted)
    )]
    Nothing {
        /// The kind of block.
        wanted: &'static str,
    },
    /// Something that is no PEM as RFC 7468 has it.
    #[error(
        "line {line}, behind {complete} complete blocks, is not understood ({reason}), so all of the file is refused"
    )]
    Line {
        /// Its number, from one.
        line: usize,
        /// How many blocks came before it.
        complete: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// The file ends within a block.
    #[error("it ends within a block, behind {complete} complete ones: it was cut off, or is still being written")]
    CutOff {
        /// How many blocks are complete.
        complete: usize,
    },
    /// A block of another kind.
    #[error("line {line} begins a block that is no `{wanted}`, so all of the file is refused: {remedy}")]
    Kind {
        /// The line's number, from one.
        line: usize,
        /// The kind of block that is wanted.
        wanted: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A block that has the form but not the content.
    #[error("block {number} holds no {wanted}: its text is not base64, or was damaged")]
    Content {
        /// Its number, from one.
        number: usize,
        /// The kind of block.
        wanted: &'static str,
    },
    /// A private key in a form that is not supported.
    #[error("{0}")]
    Key(&'static str),
}

fn begin(label: &str) -> String {
    format!("{DASHES}BEGIN {label}{DASHES}")
}

/// All certificates of a file that may have nothing else.
///
/// # Errors
/// [`PemError`]; then none of them is to be used.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    blocks(pem, "CERTIFICATE", &[])
}

/// The certificates of a file that may have the private key too, as some programs want it.
///
/// # Errors
/// [`PemError`]; then none of them is to be used.
pub fn certificate_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    blocks(pem, "CERTIFICATE", &["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "EC PARAMETERS"])
}

/// All revocation lists of a file that may have nothing else.
///
/// # Errors
/// [`PemError`]; then none of them is to be used.
pub fn revocation_lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    blocks(pem, "X509 CRL", &[])
}

/// The private key of a file.
///
/// # Errors
/// [`PemError`] that says which forms are supported and how to convert.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    const FORMS: &str = "no private key is in it: give one in PEM that begins with `-----BEGIN PRIVATE KEY-----` (PKCS#8), \
                         `-----BEGIN EC PRIVATE KEY-----` or `-----BEGIN RSA PRIVATE KEY-----`; a key in DER is converted \
                         with `openssl pkey -inform DER -in FILE -out NEW` after `umask 077`";
    let text = String::from_utf8_lossy(pem);
    let has = |label: &str| text.contains(&begin(label));
    if text.trim().is_empty() {
        return Err(PemError::Nothing { wanted: "PRIVATE KEY" });
    }
    if has("ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(PemError::Key(
            "the private key is encrypted, which is not supported: decrypt it with `openssl pkey -in FILE -out NEW` \
             after `umask 077`",
        ));
    }
    if has("OPENSSH PRIVATE KEY") {
        return Err(PemError::Key("it is a private key of OpenSSH: make one for TLS, with `stepbox ca issue` say"));
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| PemError::Key(FORMS))
}

/// All blocks of the wanted kind, where every other is of one of the kinds beside it.
fn blocks<T: PemObject>(pem: &[u8], wanted: &'static str, beside: &[&str]) -> Result<Vec<T>, PemError> {
    let count = count(pem, wanted, beside)?;
    let mut all = Vec::with_capacity(count);
    for block in T::pem_slice_iter(pem) {
        all.push(block.map_err(|_| PemError::Content { number: all.len() + 1, wanted })?);
    }
    if all.len() != count {
        return Err(PemError::Content { number: all.len() + 1, wanted });
    }
    Ok(all)
}

/// How many blocks of the wanted kind there are, once every line is understood.
fn count(pem: &[u8], wanted: &'static str, beside: &[&str]) -> Result<usize, PemError> {
    let (mut found, mut complete) = (0, 0);
    let mut open: Option<&str> = None;
    for (bytes, line) in pem.split(|byte| *byte == b'\n').zip(1..) {
        let wrong = |reason| PemError::Line { line, complete, reason };
        // What explains a block, outside of it, may be in any encoding.
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.trim_ascii_end(),
            Err(_) if open.is_none() && !bytes.windows(DASHES.len()).any(|window| window == DASHES.as_bytes()) => {
                continue;
            }
            Err(_) => return Err(wrong("it is not text")),
        };
        if !text.contains(DASHES) {
            if open == Some(wanted) && !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
            {
                return Err(wrong("it is not base64"));
            }
            continue;
        }
        let label = |edge: &str| text.strip_prefix(DASHES)?.strip_prefix(edge)?.strip_suffix(DASHES);
        match (open, label("BEGIN "), label("END ")) {
            (None, Some(own), _) if !own.contains(DASHES) => {
                if own != wanted && !beside.contains(&own) {
                    return Err(PemError::Kind { line, wanted, remedy: remedy(own) });
                }
                open = Some(own);
            }
            (Some(begun), _, Some(own)) if own == begun => {
                found += usize::from(own == wanted);
                complete += 1;
                open = None;
            }
            _ => return Err(wrong(misplaced(text))),
        }
    }
    match open {
        Some(_) => Err(PemError::CutOff { complete }),
        None if found == 0 => Err(PemError::Nothing { wanted }),
        None => Ok(found),
    }
}

/// What is wrong with a line that has the dashes of PEM.
fn misplaced(text: &str) -> &'static str {
    if text.starts_with('\u{feff}') {
        "a byte order mark stands before the dashes: save the file as UTF-8 without one"
    } else if text.starts_with(char::is_whitespace) {
        "the dashes are indented"
    } else if text.matches(DASHES).count() > 2 {
        "two files were joined without a line break between them"
    } else {
        "it neither begins a block nor ends the one that has begun"
    }
}

fn remedy(label: &str) -> &'static str {
    match label {
        "TRUSTED CERTIFICATE" => "convert it with `openssl x509 -in FILE -out NEW`",
        "X509 CERTIFICATE" => "replace the words `X509 CERTIFICATE` by `CERTIFICATE`",
        "PKCS7" | "CMS" => "convert it with `openssl pkcs7 -print_certs -in FILE -out NEW`",
        "X509 CRL" => "revocation lists are named in tls.revocation_lists",
        _ => "remove it",
    }
}
