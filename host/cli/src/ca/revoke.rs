//! `stepbox ca revoke`: certificates that must not get in any more, in a list that the authority signs (RFC 5280).

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use serde::Serialize;
use time::{Duration, OffsetDateTime};
use x509_parser::parse_x509_crl;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::X509Certificate;

use super::{Authority, MAX_PEM_BYTES, days, impossible};
use crate::files;
use crate::output::{Failure, Report};

/// The authority's list, beside its certificate.
const LIST: &str = "crl.pem";

/// A list of this size has some hundred thousand certificates.
const MAX_LIST_BYTES: usize = 16 << 20;

/// Longest serial number, in bytes: RFC 5280, section 4.1.2.2.
const MAX_SERIAL_BYTES: usize = 20;

/// Revoke certificates of the authority
#[derive(Args)]
#[command(after_help = "\
Adds the certificates to DIR/crl.pem, which is made where it is not there; servers that name a copy of it in
tls.revocation_lists refuse them, and end their connections, within seconds. Nothing ever leaves the list. Without a
certificate the list is signed anew, with a later end.

Examples:
  stepbox ca revoke --directory certificates --name worker-0
  stepbox ca revoke --directory certificates --serial 2f9a0c77d1
  stepbox ca revoke --directory certificates --days 30")]
pub(super) struct Revoke {
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,

    /// Whose certificate: NAME.pem in the authority's folder; several may be given
    #[arg(long)]
    name: Vec<String>,

    /// A certificate that is somewhere else (PEM); several may be given
    #[arg(long, value_name = "FILE")]
    certificate: Vec<PathBuf>,

    /// The serial number of a certificate that is lost, as `ca issue` has printed it; several may be given
    #[arg(long, value_name = "HEX")]
    serial: Vec<String>,

    /// Days until servers want a newer list [default: as long as the authority lasts]
    #[arg(long, value_parser = days())]
    days: Option<u32>,
}

impl Revoke {
    pub(super) fn run(&self) -> Result<Revoked, Failure> {
        let authority = Authority::load(&self.directory)?;
        let pem = parse_x509_pem(authority.certificate.as_bytes()).map_err(|_| authority.unusable())?.1;
        let own = pem.parse_x509().map_err(|_| authority.unusable())?;

        let mut serials = Vec::new();
        for name in &self.name {
            super::check_name(name)?;
            let file = self.directory.join(format!("{name}.pem"));
            if !file.exists() {
                let reason = format!(
                    "there is no {}: if `ca issue --out` wrote the certificate to another folder, give the file with \
                     `--certificate FILE`; if it is lost, give its serial number with `--serial`",
                    file.display()
                );
                return Err(Failure::here("certificate", reason));
            }
            serials.push(serial_of(&file, &own)?);
        }
        for file in &self.certificate {
            serials.push(serial_of(file, &own)?);
        }
        for serial in &self.serial {
            serials.push(parse_serial(serial)?);
        }

        // Held until the end: of two that revoke at the same time none must lose the other's.
        let _lock = lock(&self.directory)?;
        let path = self.directory.join(LIST);
        let (number, mut entries) = if path.exists() { read(&path, &own)? } else { (Vec::new(), Vec::new()) };
        let now = OffsetDateTime::now_utc();
        let mut added = Vec::new();
        for serial in serials {
            let is_there = |entry: &RevokedCertParams| trimmed(entry.serial_number.as_ref()) == trimmed(&serial);
            if !entries.iter().any(is_there) {
                added.push(hexadecimal(&serial));
                entries.push(entry(SerialNumber::from_slice(&serial), now));
            }
        }
        let number = incremented(number);
        let end = self.days.map(|days| now + Duration::days(i64::from(days)));
        let next_update = end.map_or(authority.not_after, |end| end.min(authority.not_after));
        let entries_count = entries.len();
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update,
            crl_number: SerialNumber::from_slice(&number),
            issuing_distribution_point: None,
            revoked_certs: entries,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = list.signed_by(&authority.issuer).and_then(|list| list.pem()).map_err(impossible)?;
        files::replace(&path, pem.as_bytes())?;
        Ok(Revoked { list: path, revoked: added, entries: entries_count, next_update: super::date(next_update) })
    }
}

fn entry(serial_number: SerialNumber, revocation_time: OffsetDateTime) -> RevokedCertParams {
    RevokedCertParams { serial_number, revocation_time, reason_code: None, invalidity_date: None }
}

fn lock(directory: &Path) -> Result<File, Failure> {
    let file = directory.join("ca.key");
    let locked = File::open(&file).and_then(|opened| opened.lock().map(|()| opened));
    locked.map_err(|error| Failure::here("file", format!("cannot lock {}: {error}", file.display())))
}

/// The serial number of a certificate that this authority has signed.
fn serial_of(file: &Path, authority: &X509Certificate<'_>) -> Result<Vec<u8>, Failure> {
    let wrong = |reason: &str| Failure::here("certificate", format!("{}: {reason}", file.display()));
    let text = files::read(file, MAX_PEM_BYTES)?;
    let (_, pem) = parse_x509_pem(&text).map_err(|_| wrong("it is no certificate"))?;
    let certificate = pem.parse_x509().map_err(|_| wrong("it is no certificate"))?;
    if certificate.verify_signature(Some(authority.public_key())).is_err() {
        return Err(wrong("another authority has signed it, and only that one can revoke it"));
    }
    Ok(certificate.raw_serial().to_vec())
}

/// Number and entries of the list that is there.
fn read(path: &Path, authority: &X509Certificate<'_>) -> Result<(Vec<u8>, Vec<RevokedCertParams>), Failure> {
    let wrong = || {
        let reason = "it is no list that this authority has signed: move it away, and revoke anew what it was to have";
        Failure::here("revocation-list", format!("{}: {reason}", path.display()))
    };
    let text = files::read(path, MAX_LIST_BYTES)?;
    let (_, pem) = parse_x509_pem(&text).map_err(|_| wrong())?;
    let (_, list) = parse_x509_crl(&pem.contents).map_err(|_| wrong())?;
    if list.verify_signature(authority.public_key()).is_err() {
        return Err(wrong());
    }
    let number = list.crl_number().map(|number| number.to_bytes_be()).unwrap_or_default();
    let entries = list
        .iter_revoked_certificates()
        .map(|revoked| entry(SerialNumber::from_slice(revoked.raw_serial()), revoked.revocation_date.to_datetime()));
    Ok((number, entries.collect()))
}

/// One more, as an unsigned number, the most significant byte first.
fn incremented(mut number: Vec<u8>) -> Vec<u8> {
    for byte in number.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return number;
        }
    }
    number.insert(0, 1);
    number
}

fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

pub(super) fn hexadecimal(serial: &[u8]) -> String {
    trimmed(serial).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_serial(text: &str) -> Result<Vec<u8>, Failure> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let is_hexadecimal = digits.iter().all(u8::is_ascii_hexdigit) && digits.len().is_multiple_of(2);
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(pair).collect();
    bytes.filter(|bytes| is_hexadecimal && (1..=MAX_SERIAL_BYTES).contains(&trimmed(bytes).len())).ok_or_else(|| {
        let text = text.escape_default();
        Failure::here(
            "serial",
            format!("`{text}` is no serial number: give it in hexadecimal, as `ca issue` prints it"),
        )
    })
}

#[derive(Serialize)]
pub(crate) struct Revoked {
    list: PathBuf,
    /// Serial numbers that were not in the list before.
    revoked: Vec<String>,
    entries: usize,
    next_update: String,
}

impl Report for Revoked {
    fn text(&self) -> String {
        format!(
            "{} revoked now, {} in all\nlist  {}, good until {}\nEvery server needs a copy of it, named in tls.revocation_lists",
            self.revoked.len(),
            self.entries,
            self.list.display(),
            self.next_update
        )
    }
}
