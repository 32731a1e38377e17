//! Software bills of materials: CycloneDX 1.5 and SPDX 2.3, both as JSON.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use super::{instant, package_url};
use crate::check::{Judged, Report};
use crate::licence::expression;

/// Identifies the content: the same packages give the same number.
fn fingerprint(report: &Report) -> [u8; 32] {
    let mut text = String::new();
    for one in &report.packages {
        text.push_str(&format!("{}\n{}\n", package_url(one), one.license.as_deref().unwrap_or("")));
    }
    weir_base::checksum::blake3(text.as_bytes())
}

fn uuid(report: &Report) -> String {
    let mut bytes = fingerprint(report);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = weir_base::checksum::hex(&bytes[..16]);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A reference for each package that no other has: its package URL, numbered when repeated.
fn references(report: &Report) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let unique = |one: &Judged| {
        let url = package_url(one);
        let count = seen.entry(url.clone()).or_default();
        *count += 1;
        if *count == 1 { url } else { format!("{url}#{count}") }
    };
    report.packages.iter().map(unique).collect()
}

fn by_name(report: &Report) -> HashMap<&str, usize> {
    report.packages.iter().enumerate().map(|(at, one)| (one.name.as_str(), at)).collect()
}

fn targets(one: &Judged, index: &HashMap<&str, usize>) -> BTreeSet<usize> {
    one.requires.iter().filter_map(|name| index.get(name.as_str()).copied()).collect()
}

/// CycloneDX 1.5.
pub fn cyclonedx(report: &Report) -> String {
    let (references, index) = (references(report), by_name(report));
    let components: Vec<Value> = report
        .packages
        .iter()
        .zip(&references)
        .map(|(one, reference)| {
            let mut component = json!({
                "type": "library",
                "bom-ref": reference,
                "name": one.name,
                "version": one.version,
                "purl": package_url(one),
            });
            if let Some(license) = &one.license {
                component["licenses"] = json!([{"expression": license}]);
            }
            if let Some(hash) = &one.sha256 {
                component["hashes"] = json!([{"alg": "SHA-256", "content": hash}]);
            }
            component["properties"] = json!([
                {"name": "weir:verdict", "value": one.verdict.word()},
                {"name": "weir:license-rung", "value": one.rung.word()},
                {"name": "weir:license-confidence", "value": format!("{:.2}", one.confidence)},
            ]);
            component
        })
        .collect();
    let dependencies: Vec<Value> = report
        .packages
        .iter()
        .zip(&references)
        .map(|(one, reference)| {
            let on: Vec<&String> = targets(one, &index).into_iter().map(|at| &references[at]).collect();
            json!({"ref": reference, "dependsOn": on})
        })
        .collect();
    let bill = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": format!("urn:uuid:{}", uuid(report)),
        "version": 1,
        "metadata": {
            "timestamp": instant(report.time),
            "tools": {"components": [{"type": "application", "name": "weir", "version": env!("CARGO_PKG_VERSION")}]},
        },
        "components": components,
        "dependencies": dependencies,
    });
    format!("{bill:#}\n")
}

/// SPDX 2.3.
pub fn spdx(report: &Report) -> String {
    let index = by_name(report);
    let id = |at: usize| format!("SPDXRef-Package-{at}");
    let mut own_licenses: BTreeSet<String> = BTreeSet::new();
    let mut packages = Vec::new();
    let mut relationships = Vec::new();
    for (at, one) in report.packages.iter().enumerate() {
        let license = one.license.as_deref().unwrap_or("NOASSERTION");
        if let Ok(parsed) = expression::parse(license) {
            let references = parsed.expression.licenses().into_iter().filter(|one| one.id.starts_with("LicenseRef-"));
            own_licenses.extend(references.map(|one| one.id.clone()));
        }
        let mut package = json!({
            "SPDXID": id(at),
            "name": one.name,
            "versionInfo": one.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": license,
            "licenseDeclared": license,
            "copyrightText": "NOASSERTION",
            "comment": format!("licence read from {}; verdict {}", one.rung.word(), one.verdict.word()),
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": package_url(one),
            }],
        });
        if let Some(hash) = &one.sha256 {
            package["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": hash}]);
        }
        packages.push(package);
        relationships.push(relation("SPDXRef-DOCUMENT", "DESCRIBES", &id(at)));
        relationships.extend(targets(one, &index).into_iter().map(|to| relation(&id(at), "DEPENDS_ON", &id(to))));
    }
    let mut bill = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "dependencies",
        "documentNamespace": format!("https://spdx.org/spdxdocs/weir-deps-{}", uuid(report)),
        "creationInfo": {"created": instant(report.time), "creators": [format!("Tool: weir-{}", env!("CARGO_PKG_VERSION"))]},
        "packages": packages,
        "relationships": relationships,
    });
    if !own_licenses.is_empty() {
        let listed = own_licenses.iter().map(|id| {
            let name = id.trim_start_matches("LicenseRef-").replace('-', " ");
            json!({"licenseId": id, "name": name, "extractedText": format!("The package states '{name}'; see its own files.")})
        });
        bill["hasExtractedLicensingInfos"] = listed.collect();
    }
    format!("{bill:#}\n")
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}
