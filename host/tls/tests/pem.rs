//! PEM files as people and tools leave them: all of a file is understood, or none of it is used.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use stepbox_tls::pem::{self, PemError};

fn certificate() -> String {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    CertificateParams::default().self_signed(&key).unwrap().pem()
}

fn count(bundle: &str) -> usize {
    pem::certificates(bundle.as_bytes()).unwrap().len()
}

fn refusal(bundle: &str) -> PemError {
    pem::certificates(bundle.as_bytes()).unwrap_err()
}

#[test]
fn bundles_are_counted_with_text_between_their_blocks() {
    let (one, two) = (certificate(), certificate());
    assert_eq!(count(&one), 1);
    assert_eq!(count(&format!("{one}{two}")), 2);
    assert_eq!(count(&format!("# ours\n{one}\nSubject: CN = theirs, for a year\n{two}\n# complete\n")), 2);
    assert_eq!(count(&format!("{one}{two}").replace('\n', "\r\n")), 2, "line ends of Windows");
    assert_eq!(count(&format!("{one}{}", two.trim_end())), 2, "without the last line break");
    let mut latin = b"# M\xfcnchen\n".to_vec();
    latin.extend_from_slice(one.as_bytes());
    assert_eq!(pem::certificates(&latin).unwrap().len(), 1);
}

/// Each of these is an authority less to a parser that skips what it does not know.
#[test]
fn what_is_not_understood_refuses_all_of_a_bundle() {
    let (one, two) = (certificate(), certificate());
    let line = |error: PemError, words: &str| {
        assert!(matches!(error, PemError::Line { .. }) && error.to_string().contains(words), "{error}");
    };
    line(refusal(&format!("{}{two}", one.trim_end())), "without a line break");
    line(refusal(&format!("\u{feff}{one}{two}")), "byte order mark");
    line(refusal(&format!("{one}\u{feff}{two}")), "behind 1 complete blocks");
    let indented: String = two.lines().map(|line| format!("    {line}\n")).collect();
    line(refusal(&format!("{one}{indented}")), "indented");
    line(refusal(&format!("{one}{}", two.replacen("-----BEGIN", "----BEGIN", 1))), "neither begins");
    line(refusal(&format!("{one}{}", two.replacen("-----END", "----END", 1))), "neither begins");
    line(refusal(&one.replace("END CERTIFICATE", "END X509 CRL")), "neither begins");
    line(refusal(&one.replace('\n', "\r")), "without a line break");
    for (label, words) in
        [("TRUSTED CERTIFICATE", "openssl x509"), ("X509 CERTIFICATE", "CERTIFICATE"), ("PKCS7", "pkcs7")]
    {
        let error = refusal(&format!("{one}{}", two.replace("CERTIFICATE", label)));
        assert!(matches!(error, PemError::Kind { .. }) && error.to_string().contains(words), "{error}");
    }
    let middle = (one.len() / 2..).find(|at| one.as_bytes()[*at] != b'\n').unwrap();
    let damaged = format!("{two}{}*{}", &one[..middle], &one[middle + 1..]);
    line(refusal(&damaged), "not base64");
    let padded = format!("{two}{}={}", &one[..middle], &one[middle + 1..]);
    assert_eq!(refusal(&padded), PemError::Content { number: 2, wanted: "CERTIFICATE" });
    for empty in ["", "\n\n", "  "] {
        assert_eq!(refusal(empty), PemError::Nothing { wanted: "CERTIFICATE" });
    }
    assert_eq!(refusal("# authorities\n"), PemError::Nothing { wanted: "CERTIFICATE" });
}

#[test]
fn a_beginning_is_refused_unless_it_ends_between_two_blocks() {
    let (one, two) = (certificate(), certificate());
    let bundle = format!("{one}{two}");
    for length in 0..bundle.len() {
        match pem::certificates(&bundle.as_bytes()[..length]) {
            // Whether one is enough only the file before can tell: the server compares them.
            Ok(some) if some.len() == 1 => {
                // Fewer than five dashes are text.
                assert!((one.trim_end().len()..one.len() + "-----".len()).contains(&length), "{length}");
            }
            Ok(all) => assert!(all.len() == 2 && length == bundle.trim_end().len(), "{length}"),
            Err(_) => {}
        }
    }
}

#[test]
fn keys_in_other_forms_are_refused_with_what_to_do() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    pem::private_key(key.as_bytes()).unwrap();
    for (wrong, words) in [
        (key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), "openssl pkey -in FILE -out NEW"),
        (key.replace("PRIVATE KEY", "OPENSSH PRIVATE KEY"), "stepbox ca issue"),
        (String::new(), "empty"),
        ("no key".to_owned(), "BEGIN PRIVATE KEY"),
        (key.replace("BEGIN", "BEGUN"), "BEGIN PRIVATE KEY"),
        (key[..key.len() / 2].to_owned(), "BEGIN PRIVATE KEY"),
    ] {
        let error = pem::private_key(wrong.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!error.contains("45, 45"), "bytes as numbers: {error}");
    }
    // With its key beside it, as some programs want it.
    let one = certificate();
    assert_eq!(pem::certificate_chain(format!("{key}{one}").as_bytes()).unwrap().len(), 1);
    assert!(matches!(refusal(&format!("{key}{one}")), PemError::Kind { .. }));
}
