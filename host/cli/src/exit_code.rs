//! Exit codes of refusals: one for each step of the way that a component takes until it is in use.

/// Any refusal that has no code of its own.
pub(crate) const REFUSED: u8 = 3;

/// What each code means, and the `code`s and `reason`s that it is for. docs/cli.md has the same.
pub(crate) const REFUSALS: [(u8, &str, &[&str]); 14] = [
    (10, "too large", &["too-large", "slice-too-large"]),
    (11, "the signature", &["unsigned", "malformed-signature", "bad-signature", "malformed-manifest"]),
    (12, "the digest", &["revoked-digest", "digest-mismatch"]),
    (
        13,
        "the trust policy",
        &[
            "unknown-key",
            "revoked-key",
            "expired-key",
            "key-not-yet-valid",
            "name-not-allowed",
            "threshold-not-met",
            "signed-as-another",
        ],
    ),
    (14, "the version", &["below-minimum-version", "downgrade", "version-reused", "not-deployed-before"]),
    (
        15,
        "what the component consists of",
        &[
            "not-webassembly",
            "not-a-component",
            "invalid-component",
            "forbidden-feature",
            "start-function",
            "too-many",
            "no-contract",
        ],
    ),
    (16, "imports and resources", &["forbidden-import", "declares-too-much"]),
    (
        17,
        "compilation",
        &[
            "compile-memory",
            "compile-time",
            "compile-deadline",
            "compile-stack",
            "compiled-code",
            "compiler-killed",
            "compiler",
        ],
    ),
    (
        18,
        "the trial",
        &[
            "bad-description",
            "bad-plan",
            "bad-offset",
            "not-deterministic",
            "entangled",
            "tampered-trial",
            "not-finite-output",
            "out-of-fuel",
            "deadline",
            "memory-limit",
            "total-memory-limit",
            "table-limit",
            "stack-overflow",
            "trap",
            "matrix-product",
            "optimizer-refused",
            "call-failed",
        ],
    ),
    (19, "a hyperparameter", &["hyperparameter"]),
    (20, "no right to it", &["forbidden", "no-identity", "not-a-publisher", "not-a-deployer"]),
    (21, "not now: try again", &["busy", "rate-limited", "deployment-under-way", "submissions-full"]),
    (
        22,
        "nothing of that name or digest is there",
        &["unknown-component", "not-submitted", "no-previous-deployment", "component-lost"],
    ),
    (23, "an audit log that was changed", &["tampered"]),
];

/// The exit code of a refusal: its reason's, or else its code's.
pub(crate) fn of_refusal(code: &str, reason: Option<&str>) -> u8 {
    // One name is two things: a log that was changed, and an optimizer that changes what is not its own.
    let reason = reason.map(|reason| if reason == "tampered" { "tampered-trial" } else { reason });
    let of = |name: &str| REFUSALS.iter().find(|(_, _, names)| names.contains(&name)).map(|(code, ..)| *code);
    reason.and_then(of).or_else(|| of(code)).unwrap_or(REFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_counts_before_its_code_and_others_are_refusals_too() {
        assert_eq!(of_refusal("untrusted", Some("downgrade")), 14);
        assert_eq!(of_refusal("not-admitted", Some("tampered")), 18);
        assert_eq!(of_refusal("tampered", None), 23);
        assert_eq!(of_refusal("busy", Some("a reason that is new")), 21);
        assert_eq!(of_refusal("unknown-key-of-a-job", None), REFUSED);
    }

    #[test]
    fn the_documentation_has_the_same_codes() {
        let text = include_str!("../../../docs/cli.md");
        for (code, meaning, names) in REFUSALS {
            let names: Vec<_> =
                names.iter().filter(|name| **name != "tampered-trial").map(|name| format!("`{name}`")).collect();
            let row = format!("| {code} | refused: {meaning} | {} |", names.join(", "));
            assert!(text.contains(&row), "docs/cli.md lacks the row\n{row}");
        }
    }

    /// Each reason that the documentation of deployments names has a code of its own kind.
    #[test]
    fn every_reason_of_a_deployment_has_a_code() {
        let text = include_str!("../../../docs/deployment.md");
        let table = text.split("## Refusals").nth(1).unwrap_or_default();
        let rows = table.lines().filter(|line| {
            line.starts_with("| `") && !line.starts_with("| `internal`") && !line.starts_with("| `code`")
        });
        let reasons: Vec<_> =
            rows.filter_map(|row| row.split('|').nth(2)).flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        assert!(reasons.len() > 30, "{reasons:?}");
        for reason in reasons.into_iter().filter(|reason| !reason.contains(' ')) {
            assert_ne!(of_refusal("", Some(reason)), REFUSED, "{reason}");
        }
    }
}
