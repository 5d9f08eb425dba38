//! SPIFFE IDs, by the [standard](https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md): names of workloads
//! such as `spiffe://example.org/training/worker-0`, as issued by SPIRE and service meshes.

use thiserror::Error;

/// Longest SPIFFE ID, in bytes: section 2.3 of the standard.
pub const MAX_SPIFFE_ID_BYTES: usize = 2048;

/// Longest trust domain, in bytes: section 2.1 of the standard.
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// What a SPIFFE ID starts with. In small letters only: an ID is compared as it is, so each has one spelling.
pub(crate) const SCHEME: &str = "spiffe://";

/// Why a name that starts like a SPIFFE ID is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// It is longer than [`MAX_SPIFFE_ID_BYTES`].
    #[error("it has {bytes} bytes, at most {MAX_SPIFFE_ID_BYTES} are allowed")]
    Length {
        /// How many.
        bytes: usize,
    },
    /// It starts with the scheme in other letters, or without slashes.
    #[error("it starts with `spiffe://`, in small letters")]
    Scheme,
    /// Its trust domain is none.
    #[error(
        "its trust domain has 1 to {MAX_TRUST_DOMAIN_BYTES} small letters, digits, `.`, `-` and `_`, and neither a port \
         nor a user"
    )]
    TrustDomain,
    /// It names a trust domain, and no workload in it.
    #[error("it has no path, so it names a trust domain and no workload in it")]
    NoPath,
    /// Its path is none.
    #[error(
        "its path has segments of letters, digits, `.`, `-` and `_` between single slashes; none of them is `.` or `..`, \
         and there is no query, fragment or percent-encoding"
    )]
    Path,
}

/// Whether a name is meant to be a SPIFFE ID, in whatever letters.
pub(crate) fn is_meant(name: &str) -> bool {
    name.as_bytes().get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"spiffe:"))
}

/// Whether a name is the SPIFFE ID of a workload.
pub(crate) fn check(id: &str) -> Result<(), SpiffeIdError> {
    if id.len() > MAX_SPIFFE_ID_BYTES {
        return Err(SpiffeIdError::Length { bytes: id.len() });
    }
    let rest = id.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
    let in_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    if domain.is_empty() || domain.len() > MAX_TRUST_DOMAIN_BYTES || !domain.bytes().all(in_domain) {
        return Err(SpiffeIdError::TrustDomain);
    }
    let path = path.ok_or(SpiffeIdError::NoPath)?;
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(in_path);
    if path.split('/').all(is_segment) { Ok(()) } else { Err(SpiffeIdError::Path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_standard_are_told_from_others() {
        let longest_domain = format!("spiffe://{}/a", "d".repeat(MAX_TRUST_DOMAIN_BYTES));
        let longest = format!("spiffe://d/{}", "a".repeat(MAX_SPIFFE_ID_BYTES - 11));
        for id in [
            "spiffe://example.org/training/worker-0",
            "spiffe://10.0.0.1/a",
            "spiffe://_/A.b-c_9/...",
            &longest_domain,
            &longest,
        ] {
            assert_eq!(check(id), Ok(()), "{id}");
            assert!(is_meant(id));
        }
        for (error, ids) in [
            (
                SpiffeIdError::Scheme,
                vec!["", "spiffe:/a/b", "SPIFFE://a/b", "Spiffe://a/b", "https://a/b", " spiffe://a/b"],
            ),
            (
                SpiffeIdError::TrustDomain,
                vec![
                    "spiffe:///a",
                    "spiffe://A/b",
                    "spiffe://a:8443/b",
                    "spiffe://u@a/b",
                    "spiffe://ä/b",
                    "spiffe://a?b/c",
                ],
            ),
            (SpiffeIdError::NoPath, vec!["spiffe://example.org"]),
            (
                SpiffeIdError::Path,
                vec![
                    "spiffe://a/",
                    "spiffe://a//b",
                    "spiffe://a/b/",
                    "spiffe://a/./b",
                    "spiffe://a/..",
                    "spiffe://a/b?c",
                    "spiffe://a/b#c",
                    "spiffe://a/%62",
                    "spiffe://a/*",
                    "spiffe://a/b c",
                    "spiffe://a/ä",
                    "spiffe://a/b\n",
                ],
            ),
        ] {
            for id in ids {
                assert_eq!(check(id), Err(error), "{id:?}");
            }
        }
        let too_long = format!("{longest}a");
        assert_eq!(check(&too_long), Err(SpiffeIdError::Length { bytes: MAX_SPIFFE_ID_BYTES + 1 }));
        assert_eq!(
            check(&format!("spiffe://{}/a", "d".repeat(MAX_TRUST_DOMAIN_BYTES + 1))),
            Err(SpiffeIdError::TrustDomain)
        );
    }
}
