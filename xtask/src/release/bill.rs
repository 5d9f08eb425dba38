//! The bill of materials: CycloneDX 1.5, <https://cyclonedx.org/docs/1.5/json/>.
//!
//! The same release has the same bill, byte for byte: everything is in order, there is no serial number, which would have to
//! be random, and a time stands in it only where `SOURCE_DATE_EPOCH` gives one
//! (<https://reproducible-builds.org/specs/source-date-epoch/>).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cyclonedx_bom::models::bom::SpecVersion;
use cyclonedx_bom::models::component::{Classification, Components};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::external_reference::{ExternalReference, ExternalReferenceType, ExternalReferences};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::prelude::*;

use super::packages::{self, Id, Package};
use super::{PROGRAM, Released};
use crate::guests;

/// The bill of these files.
pub fn of(root: &Path, released: &[Released]) -> Result<Vec<u8>> {
    let host = crate::workspace::host_triple()?;
    let known = packages::known(root, &[&host, guests::TARGET])?;
    let version = known.keys().find(|id| id.name == PROGRAM).context("the workspace has no program")?.version.clone();

    let mut dependencies: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut files, mut used) = (Vec::new(), BTreeSet::new());
    for file in released {
        let target = if file.package == PROGRAM { host.as_str() } else { guests::TARGET };
        let graph = packages::tree(root, &file.package, target)?;
        let package = graph.dependencies.keys().find(|id| id.name == file.package).cloned();
        let package = package.with_context(|| format!("no package {}", file.package))?;
        dependencies.entry(file.path.clone()).or_default().insert(reference(&package));
        files.push(file_component(file, &package, &known)?);
        for (id, needs) in graph.dependencies {
            dependencies.entry(reference(&id)).or_default().extend(needs.iter().map(reference));
            used.insert(id);
        }
    }
    let libraries = used.iter().map(|id| library(id, &known)).collect::<Result<Vec<_>>>()?;
    let dependency = |(dependency_ref, dependencies): (String, BTreeSet<String>)| Dependency {
        dependency_ref,
        dependencies: dependencies.into_iter().collect(),
    };

    let bill = Bom {
        version: 1,
        serial_number: None,
        spec_version: SpecVersion::V1_5,
        metadata: Some(Metadata {
            timestamp: timestamp()?,
            component: Some(Component::new(Classification::Application, PROGRAM, &version, Some("release".to_owned()))),
            ..Metadata::default()
        }),
        components: Some(Components(files.into_iter().chain(libraries).collect())),
        dependencies: Some(Dependencies(dependencies.into_iter().map(dependency).collect())),
        ..Bom::default()
    };
    let verdict = bill.validate_version(SpecVersion::V1_5);
    ensure!(verdict.passed(), "the bill of materials does not follow its specification: {verdict:?}");
    let mut bytes = Vec::new();
    bill.output_as_json_v1_5(&mut bytes).context("the bill of materials cannot be written")?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// By what the bill refers to a package.
fn reference(Id { name, version }: &Id) -> String {
    format!("{name}@{version}")
}

fn file_component(file: &Released, id: &Id, known: &BTreeMap<Id, Package>) -> Result<Component> {
    let package = known.get(id).with_context(|| format!("`cargo metadata` does not know {}", reference(id)))?;
    let name = file.path.rsplit('/').next().unwrap_or(&file.path);
    let mut component = Component::new(Classification::Application, name, &id.version, Some(file.path.clone()));
    component.hashes = Some(hashes(&file.sha256));
    component.licenses = licenses(package);
    Ok(component)
}

fn library(id: &Id, known: &BTreeMap<Id, Package>) -> Result<Component> {
    let package = known.get(id).with_context(|| format!("`cargo metadata` does not know {}", reference(id)))?;
    let mut component = Component::new(Classification::Library, &id.name, &id.version, Some(reference(id)));
    component.description = package.description.as_deref().map(|text| NormalizedString::new(text.trim()));
    component.licenses = licenses(package);
    component.hashes = package.checksum.as_deref().map(hashes);
    // Packages of this workspace are not on crates.io.
    if package.checksum.is_some() {
        let purl = Purl::new("cargo", &id.name, &id.version);
        component.purl = Some(purl.with_context(|| format!("no package URL for {}", reference(id)))?);
    }
    component.external_references = package.repository.as_deref().and_then(|address| {
        let address = Uri::try_from(address.trim().to_owned()).ok()?;
        Some(ExternalReferences(vec![ExternalReference::new(ExternalReferenceType::Vcs, address)]))
    });
    Ok(component)
}

fn hashes(sha256: &str) -> Hashes {
    Hashes(vec![Hash { alg: HashAlgorithm::SHA_256, content: HashValue(sha256.to_owned()) }])
}

/// As SPDX expressions. Older packages put a `/` where an `OR` belongs.
fn licenses(package: &Package) -> Option<Licenses> {
    let expression = package.license.as_deref()?.replace('/', " OR ");
    let expression = SpdxExpression::try_from(expression).ok()?;
    Some(Licenses(vec![LicenseChoice::Expression(expression)]))
}

/// What `SOURCE_DATE_EPOCH` says, where it says something.
fn timestamp() -> Result<Option<DateTime>> {
    let Some(seconds) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let seconds = seconds.to_str().and_then(|text| text.parse::<i64>().ok());
    let text = seconds.and_then(rfc3339).context("SOURCE_DATE_EPOCH is no number of seconds")?;
    Ok(Some(DateTime::try_from(text).context("SOURCE_DATE_EPOCH is no time")?))
}

/// Seconds since 1970 as a date in the Gregorian calendar, UTC (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn rfc3339(seconds: i64) -> Option<String> {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days.checked_add(719_468)?;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    (0..=9999).contains(&year).then(|| format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_bill_has_what_it_is_made_of_and_not_what_it_is_tested_with() {
        let root = crate::workspace::root().unwrap();
        let file = |path: &str, package: &str| Released {
            path: path.into(),
            bytes: 1,
            sha256: "00".repeat(32),
            package: package.into(),
        };
        let bill = of(&root, &[file("stepbox", PROGRAM), file("optimizers/adamw.wasm", "optimizer-adamw")]).unwrap();
        let bill: serde_json::Value = serde_json::from_slice(&bill).unwrap();
        let components = bill["components"].as_array().unwrap();
        let find = |name: &str| components.iter().find(|component| component["name"] == name);
        for (name, license) in [("wasmtime", "Apache-2.0 WITH LLVM-exception"), ("rustls", "Apache-2.0 OR ISC OR MIT")]
        {
            let component = find(name).unwrap_or_else(|| panic!("{name} is not listed"));
            assert_eq!(component["licenses"][0]["expression"], license, "{component}");
            assert!(component["purl"].as_str().unwrap().starts_with(&format!("pkg:cargo/{name}@")), "{component}");
            assert_eq!(component["hashes"][0]["content"].as_str().unwrap().len(), 64, "{component}");
        }
        assert!(find("proptest").is_none() && find("wasmsign2").is_none(), "what only tests need");

        // What an optimizer depends on, all the way down.
        let dependencies = bill["dependencies"].as_array().unwrap();
        let of = |reference: &str| {
            let found = dependencies.iter().find(|entry| entry["ref"] == reference).map(|entry| &entry["dependsOn"]);
            let list = found.and_then(serde_json::Value::as_array).into_iter().flatten();
            list.map(|entry| entry.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let (mut reached, mut waiting) = (BTreeSet::new(), vec!["optimizers/adamw.wasm".to_owned()]);
        while let Some(reference) = waiting.pop() {
            if reached.insert(reference.clone()) {
                waiting.extend(of(&reference));
            }
        }
        let has = |name: &str| reached.iter().any(|reference| reference.starts_with(&format!("{name}@")));
        assert!(has("stepbox-guest") && !has("wasmtime"), "{reached:?}");
    }

    #[test]
    fn seconds_are_dates() {
        assert_eq!(rfc3339(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(rfc3339(951_827_696).as_deref(), Some("2000-02-29T12:34:56Z"));
        assert_eq!(rfc3339(4_102_444_799).as_deref(), Some("2099-12-31T23:59:59Z"));
        assert_eq!(rfc3339(-1).as_deref(), Some("1969-12-31T23:59:59Z"));
        assert_eq!(rfc3339(i64::MAX), None);
    }
}
