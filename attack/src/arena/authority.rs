//! Certificates, good ones and others.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams,
    SerialNumber, SigningKey, date_time_ymd,
};
use time::OffsetDateTime;

/// Who certifies peers.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

/// PEM files of somebody's certificate and key.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The certificate, and what leads from it to the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What a certificate says.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The common name.
    pub identity: &'a str,
    /// From and to when.
    pub times: (OffsetDateTime, OffsetDateTime),
    /// Whether it is for a server, and not for a client.
    pub is_server: bool,
}

impl<'a> Wanted<'a> {
    /// A good one.
    pub fn new(identity: &'a str) -> Self {
        Self { identity, times: (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1)), is_server: false }
    }

    /// One that holds in these years.
    pub fn in_years(identity: &'a str, years: (i32, i32)) -> Self {
        let times = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        Self { times, ..Self::new(identity) }
    }
}

impl Authority {
    /// A new one, whose files lie in a folder of their own.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(folder: PathBuf) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let authority = Self { issuer, folder };
        fs::write(authority.certificate(), authority.issuer.pem())?;
        authority.revoke(&[])?;
        Ok(authority)
    }

    /// The list of what it has revoked.
    pub fn revocation_list(&self) -> PathBuf {
        self.folder.join("revoked.pem")
    }

    /// Revokes these certificates, and no others.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn revoke(&self, certificates: &[&Credentials]) -> Result<()> {
        let revoked = |credentials: &&Credentials| -> Result<RevokedCertParams> {
            let key = KeyPair::from_pem(&fs::read_to_string(&credentials.key)?)?;
            let (serial_number, revocation_time) = (serial(&key), date_time_ymd(2020, 1, 1));
            Ok(RevokedCertParams { serial_number, revocation_time, reason_code: None, invalidity_date: None })
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2120, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: certificates.iter().map(revoked).collect::<Result<_>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        // In one step, so that nobody reads half of it.
        let next = self.folder.join("revoked.next");
        fs::write(&next, list.signed_by(&self.issuer)?.pem()?)?;
        Ok(fs::rename(next, self.revocation_list())?)
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A good certificate for a client.
    ///
    /// # Errors
    /// Its files cannot be written.
    pub fn issue(&self, identity: &str) -> Result<Credentials> {
        self.issue_as(identity, Wanted::new(identity))
    }

    /// Any certificate, in files of this name.
    ///
    /// # Errors
    /// Its files cannot be written.
    pub fn issue_as(&self, file: &str, wanted: Wanted<'_>) -> Result<Credentials> {
        write(&self.folder, file, wanted, &self.issuer, None)
    }

    /// A certificate that is signed by a client's key, as if that client were an authority.
    ///
    /// # Errors
    /// Its files cannot be written, or the client's cannot be read.
    pub fn issued_by_client(
        &self,
        client_identity: &str,
        client: &Credentials,
        wanted: Wanted<'_>,
    ) -> Result<Credentials> {
        let certificate = fs::read_to_string(&client.certificate)?;
        // What stands in a certificate of its issuer: no more than its name and its key.
        let mut params = CertificateParams::default();
        params.distinguished_name = named(client_identity);
        let issuer = Issuer::new(params, KeyPair::from_pem(&fs::read_to_string(&client.key)?)?);
        write(&self.folder, &format!("{}-by-client", wanted.identity), wanted, &issuer, Some(&certificate))
    }
}

/// A certificate's number, which follows from its key.
fn serial(key: &KeyPair) -> SerialNumber {
    let mut number = [0x40; 16];
    number.iter_mut().skip(1).zip(key.der_bytes().iter().rev()).for_each(|(to, from)| *to = *from);
    SerialNumber::from_slice(&number)
}

fn named(identity: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, identity);
    name
}

fn write(
    folder: &Path,
    file: &str,
    wanted: Wanted<'_>,
    issuer: &Issuer<'_, impl SigningKey>,
    chain: Option<&str>,
) -> Result<Credentials> {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    params.distinguished_name = named(wanted.identity);
    (params.not_before, params.not_after) = wanted.times;
    params.extended_key_usages = vec![match wanted.is_server {
        true => ExtendedKeyUsagePurpose::ServerAuth,
        false => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    let key = KeyPair::generate()?;
    params.serial_number = Some(serial(&key));
    let certificate = params.signed_by(&key, issuer)?;
    let path = |extension: &str| folder.join(format!("{file}.{extension}"));
    let credentials = Credentials { certificate: path("pem"), key: path("key") };
    fs::write(&credentials.certificate, format!("{}{}", certificate.pem(), chain.unwrap_or_default()))?;
    fs::write(&credentials.key, key.serialize_pem())?;
    fs::set_permissions(&credentials.key, PermissionsExt::from_mode(0o600))?;
    Ok(credentials)
}
