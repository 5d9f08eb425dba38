//! `stepbox ca`: a small certificate authority for development and single-owner clusters.
//!
//! Keys are ECDSA on P-256, the one kind every TLS library takes. Certificates follow the profile of RFC 5280: the
//! authority may sign leaf certificates only, a leaf may do nothing but TLS.

mod revoke;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::ServerName;
use serde::Serialize;
use stepbox_server::Identity;
use stepbox_trust::{PRIVATE_MODE, PUBLIC_MODE};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use x509_parser::pem::parse_x509_pem;

use crate::files;
use crate::output::{Failure, Report};

/// Days an authority lasts unless said otherwise: two years, a project's time.
const CA_DAYS: u32 = 730;

/// Days a certificate lasts unless said otherwise: short enough that a lost one does little harm, long enough for a
/// training run.
const LEAF_DAYS: u32 = 90;

/// The most days that can be asked for, ten years; more is a typing error.
const MAX_DAYS: i64 = 3650;

/// Clocks of machines differ; certificates are valid from this long before they were made.
const CLOCK_SKEW: Duration = Duration::hours(1);

/// A name is at most this long: `ub-common-name` of RFC 5280, appendix A.1.
const MAX_NAME_CHARACTERS: usize = 64;

/// PEM files of one certificate or key have one or two kilobytes.
const MAX_PEM_BYTES: usize = 64 * 1024;

/// What a server's certificate is for unless said otherwise: this machine only.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Make certificates for servers, workers and people
#[derive(Args)]
pub(crate) struct Ca {
    #[command(subcommand)]
    verb: CaVerb,
}

#[derive(Subcommand)]
enum CaVerb {
    Init(Init),
    Issue(Issue),
    Revoke(revoke::Revoke),
}

/// Make a certificate authority
#[derive(Args)]
#[command(after_help = "\
Writes ca.pem, which every server and worker needs, and ca.key (mode 0600), which only `stepbox ca issue` needs: keep it
off the machines that train.

Example:
  stepbox ca init --directory certificates")]
struct Init {
    /// Folder for the authority; made where it is not there
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,

    /// Days the authority lasts
    #[arg(long, default_value_t = CA_DAYS, value_parser = days())]
    days: u32,
}

/// Make a certificate signed by the authority
#[derive(Args)]
#[command(after_help = "\
Writes NAME.pem and NAME.key (mode 0600). The name is the identity under which the server's configuration gives rights.

Examples:
  stepbox ca issue --directory certificates --name worker-0
  stepbox ca issue --directory certificates --name worker-1 --hours 12 --spiffe-id spiffe://example.org/training/worker-1
  stepbox ca issue --directory certificates --name server --server --host ps.example.com --host 10.0.0.7")]
struct Issue {
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,

    /// Whom the certificate names: letters, digits, `-`, `_`, `.` and `@`
    #[arg(long)]
    name: String,

    /// Make it good for a server too
    #[arg(long)]
    server: bool,

    /// A host name or address of the server; several may be given [default: localhost 127.0.0.1 ::1]
    #[arg(long, requires = "server", value_name = "NAME")]
    host: Vec<String>,

    /// Folder for the certificate and its key [default: the authority's]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Days the certificate lasts, but never longer than the authority
    #[arg(long, default_value_t = LEAF_DAYS, value_parser = days(), conflicts_with = "hours")]
    days: u32,

    /// Hours it lasts, in place of days
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=MAX_DAYS * 24))]
    hours: Option<u32>,

    /// A SPIFFE ID, which is the identity then, and the name a file's alone
    #[arg(long, value_name = "URI")]
    spiffe_id: Option<String>,
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=MAX_DAYS)
}

impl Ca {
    pub(crate) fn run(&self) -> Result<Done, Failure> {
        match &self.verb {
            CaVerb::Init(verb) => verb.run().map(Done::Issued),
            CaVerb::Issue(verb) => verb.run().map(Done::Issued),
            CaVerb::Revoke(verb) => verb.run().map(Done::Revoked),
        }
    }
}

impl Init {
    fn run(&self) -> Result<Issued, Failure> {
        make_private_folder(&self.directory)?;
        let name = "Stepbox authority";
        let mut parameters = parameters(name, OffsetDateTime::now_utc() + Duration::days(i64::from(self.days)));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(impossible)?;
        let certificate = parameters.self_signed(&key).map_err(impossible)?;
        write_pair(&self.directory, "ca", &certificate.pem(), &key, name, parameters.not_after)
    }
}

impl Issue {
    fn run(&self) -> Result<Issued, Failure> {
        check_name(&self.name)?;
        let authority = Authority::load(&self.directory)?;
        let life = self.hours.map_or(Duration::days(i64::from(self.days)), |hours| Duration::hours(i64::from(hours)));
        let not_after = authority.not_after.min(OffsetDateTime::now_utc() + life);
        let id = self.spiffe_id.as_ref().map(|id| spiffe_name(id)).transpose()?;

        let mut parameters = parameters(&self.name, not_after);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        parameters.use_authority_key_identifier_extension = true;
        if self.server {
            parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            let hosts = if self.host.is_empty() { LOOPBACK.map(String::from).to_vec() } else { self.host.clone() };
            parameters.subject_alt_names = subject_names(hosts)?;
        }
        parameters.subject_alt_names.extend(id);
        let key = KeyPair::generate().map_err(impossible)?;
        let certificate = parameters.signed_by(&key, &authority.issuer).map_err(impossible)?;
        let folder = self.out.as_ref().unwrap_or(&self.directory);
        make_private_folder(folder)?;
        let issued = write_pair(folder, &self.name, &certificate.pem(), &key, &self.name, not_after)?;
        Ok(Issued { spiffe_id: self.spiffe_id.clone(), ..issued })
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    certificate: String,
    certificate_file: PathBuf,
    not_after: OffsetDateTime,
}

impl Authority {
    fn load(directory: &Path) -> Result<Self, Failure> {
        let (certificate_file, key_file) = (directory.join("ca.pem"), directory.join("ca.key"));
        if !certificate_file.exists() {
            return Err(Failure::here(
                "authority",
                format!(
                    "there is no authority in {0}: make one with `stepbox ca init --directory {0}`",
                    directory.display()
                ),
            ));
        }
        let certificate = files::read_text(&certificate_file, MAX_PEM_BYTES)?;
        let key_text = files::read_private_text(&key_file, MAX_PEM_BYTES)?;
        let key = KeyPair::from_pem(&key_text).map_err(|_| unusable(&key_file, &key_text))?;
        let not_after = parse_x509_pem(certificate.as_bytes())
            .ok()
            .and_then(|(_, pem)| Some(pem.parse_x509().ok()?.validity().not_after.to_datetime()))
            .ok_or_else(|| unusable(&certificate_file, &certificate))?;
        if not_after <= OffsetDateTime::now_utc() {
            return Err(Failure::here(
                "authority",
                format!(
                    "the authority in {} ended on {}: make a new one in another folder",
                    directory.display(),
                    date(not_after)
                ),
            ));
        }
        let issuer =
            Issuer::from_ca_cert_pem(&certificate, key).map_err(|_| unusable(&certificate_file, &certificate))?;
        Ok(Self { issuer, certificate, certificate_file, not_after })
    }

    fn unusable(&self) -> Failure {
        unusable(&self.certificate_file, &self.certificate)
    }
}

/// A file of an authority that is not what it should be.
fn unusable(file: &Path, content: &str) -> Failure {
    let reason = if content.trim().is_empty() {
        "is empty, as a full disk can leave it: restore it from a backup; if the authority has issued nothing yet, remove \
         ca.pem and ca.key and make it again"
    } else if content.contains("ENCRYPTED") {
        "is encrypted, which is not supported: decrypt it with `openssl pkey -in FILE -out NEW` after `umask 077`"
    } else {
        "is not what `stepbox ca init` wrote (an ECDSA key on P-256 in PKCS#8, and its certificate): restore it, or make a \
         new authority"
    };
    Failure::here("authority", format!("{} {reason}", file.display()))
}

fn parameters(name: &str, not_after: OffsetDateTime) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.not_before = OffsetDateTime::now_utc() - CLOCK_SKEW;
    parameters.not_after = not_after;
    parameters
}

fn subject_names(hosts: Vec<String>) -> Result<Vec<SanType>, Failure> {
    let wrong = |host: &str| {
        let host = host.escape_default();
        Failure::here("host", format!("`{host}` is neither a host's name nor an address"))
    };
    // rcgen takes any text for a name; clients do not.
    if let Some(host) = hosts.iter().find(|host| ServerName::try_from(host.as_str()).is_err()) {
        return Err(wrong(host));
    }
    let names = CertificateParams::new(hosts.clone()).map_err(|_| wrong(&hosts.join(" ")))?;
    Ok(names.subject_alt_names)
}

fn spiffe_name(id: &str) -> Result<SanType, Failure> {
    let wrong = |reason: String| Failure::here("spiffe-id", reason);
    Identity::new(id).map_err(|error| wrong(error.to_string()))?;
    if !id.starts_with("spiffe://") {
        return Err(wrong(format!("`{}` is no SPIFFE ID: it starts with `spiffe://`", id.escape_default())));
    }
    Ok(SanType::URI(id.try_into().map_err(impossible)?))
}

/// The name is an identity in configurations and the name of two files.
fn check_name(name: &str) -> Result<(), Failure> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    let good = !name.is_empty()
        && name.len() <= MAX_NAME_CHARACTERS
        && name.bytes().all(allowed)
        && !name.starts_with(['.', '-'])
        && name != "ca";
    if good {
        return Ok(());
    }
    Err(Failure::here(
        "name",
        format!(
            "`{}` is no name for a certificate: use at most {MAX_NAME_CHARACTERS} letters, digits, `-`, `_`, `.` and \
             `@`, not beginning with `.` or `-`, and not `ca`",
            name.escape_default()
        ),
    ))
}

fn make_private_folder(path: &Path) -> Result<(), Failure> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| Failure::here("file", format!("cannot make {}: {error}", path.display())))
}

fn write_pair(
    folder: &Path,
    stem: &str,
    certificate: &str,
    key: &KeyPair,
    name: &str,
    not_after: OffsetDateTime,
) -> Result<Issued, Failure> {
    let (certificate_file, key_file) = (folder.join(format!("{stem}.pem")), folder.join(format!("{stem}.key")));
    files::create_new(&certificate_file, certificate.as_bytes(), PUBLIC_MODE)?;
    if let Err(failure) = files::create_new(&key_file, key.serialize_pem().as_bytes(), PRIVATE_MODE) {
        // A certificate without its key would only mislead.
        let _ = fs::remove_file(&certificate_file);
        return Err(failure);
    }
    let (_, pem) = parse_x509_pem(certificate.as_bytes()).map_err(|_| unreadable())?;
    let serial = revoke::hexadecimal(pem.parse_x509().map_err(|_| unreadable())?.raw_serial());
    Ok(Issued {
        name: name.to_owned(),
        spiffe_id: None,
        serial,
        certificate: certificate_file,
        key: key_file,
        not_after: date(not_after),
    })
}

fn date(moment: OffsetDateTime) -> String {
    let whole_seconds = moment.replace_nanosecond(0).unwrap_or(moment);
    whole_seconds.format(&Rfc3339).unwrap_or_else(|_| whole_seconds.to_string())
}

fn unreadable() -> Failure {
    Failure::here("certificate", "the certificate that was made cannot be read".to_owned())
}

fn impossible(error: rcgen::Error) -> Failure {
    Failure::here("certificate", format!("cannot make a key or certificate: {error}"))
}

/// What a verb has done.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Done {
    Issued(Issued),
    Revoked(revoke::Revoked),
}

impl Report for Done {
    fn text(&self) -> String {
        match self {
            Self::Issued(issued) => issued.text(),
            Self::Revoked(revoked) => revoked.text(),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Issued {
    name: String,
    /// In place of the name, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<String>,
    /// What it can be revoked by.
    serial: String,
    certificate: PathBuf,
    key: PathBuf,
    not_after: String,
}

impl Report for Issued {
    fn text(&self) -> String {
        format!(
            "{}, valid until {}\ncertificate  {}\nprivate key  {}  (keep it to yourself)",
            self.name,
            self.not_after,
            self.certificate.display(),
            self.key.display()
        )
    }
}
