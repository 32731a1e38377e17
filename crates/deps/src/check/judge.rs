//! One package against the policy.

use std::str::FromStr;

use pep440_rs::Version;

use super::{Context, Judged, day_of};
use crate::finding::{Code, Finding, Level};
use crate::licence::expression::{self, Expression};
use crate::licence::{self, Evidence, Resolution, Rung};
use crate::name::printable;
use crate::package::{Package, PackageSet};
use crate::policy::{self, Class, Pinning, Policy};

/// Which exceptions and clarifications a package made use of, by their place in the policy.
#[derive(Debug, Default)]
pub(super) struct Marks {
    exceptions: Vec<usize>,
}

/// Which exceptions were used over the whole set.
pub(super) struct Used {
    exceptions: Vec<bool>,
}

impl Used {
    pub(super) fn new(policy: &Policy) -> Self {
        Self { exceptions: vec![false; policy.exceptions.len()] }
    }

    pub(super) fn add(&mut self, marks: &Marks) {
        marks.exceptions.iter().for_each(|at| self.exceptions[*at] = true);
    }

    /// Exceptions that matched no package.
    pub(super) fn findings(&self, context: Context<'_>) -> Vec<Finding> {
        let unused = self.exceptions.iter().zip(&context.policy.exceptions).filter(|(used, _)| !**used);
        unused
            .map(|(_, exception)| {
                let message =
                    format!("the exception for {} ({}) matches no package", exception.package, exception.reason);
                Finding::new(Code::ExceptionUnused, context.policy.levels.exceptions, message)
                    .with_fix("remove it from the policy")
            })
            .collect()
    }
}

/// Resolves and judges.
pub(super) fn judge(package: &Package, set: &PackageSet, context: Context<'_>) -> (Judged, Marks) {
    let policy = context.policy;
    let mut findings = package.problems.clone();
    let resolution = resolve(package, policy, &mut findings);
    for (code, message) in &resolution.notes {
        let level = match code {
            Code::LicenseConflict => policy.levels.conflict,
            Code::LicenseUncertain => policy.levels.uncertain,
            Code::LicenseDeprecated => policy.levels.deprecated,
            _ => policy.levels.malformed,
        };
        findings.push(Finding::new(*code, level, message.clone()).at(package.file.clone(), package.line));
    }
    bundled(&resolution, policy, package, &mut findings);
    let mut marks = Marks::default();
    let (verdict, reason) = verdict(package, &resolution, context, &mut findings, &mut marks);
    sources(package, set, policy, &mut findings);
    banned(package, policy, &mut findings);
    behind(package, context, &mut findings);
    if let Some(advisories) = context.advisories {
        advisories.judge(package, policy, context.now, &mut findings);
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let metadata = package.metadata.as_ref();
    let judged = Judged {
        name: package.name.clone(),
        version: package.version.clone(),
        license: resolution.expression.as_ref().map(Expression::to_string),
        rung: resolution.rung,
        confidence: (resolution.confidence * 100.0).round() / 100.0,
        verdict,
        level: Level::Allow,
        findings,
        evidence: resolution.evidence,
        path: Vec::new(),
        requires: package.requires.clone(),
        ecosystem: package.ecosystem,
        reason,
        url: metadata.and_then(|metadata| metadata.url.clone()),
        author: metadata.and_then(|metadata| metadata.author.clone()),
        license_files: package.texts.iter().map(|text| (text.file.clone(), text.hash.clone())).collect(),
        file: package.file.clone(),
        sha256: package.artifacts.iter().find_map(|artifact| artifact.sha256.clone()),
    };
    (judged, marks)
}

fn resolve(package: &Package, policy: &Policy, findings: &mut Vec<Finding>) -> Resolution {
    let metadata = package.metadata.as_ref();
    let mut resolution = match (metadata, &package.stated_license) {
        (None, Some(stated)) => {
            let stated = crate::metadata::Metadata { license: Some(stated.clone()), ..Default::default() };
            licence::resolve(&stated, &package.texts)
        }
        (metadata, _) => licence::resolve(metadata.unwrap_or(&Default::default()), &package.texts),
    };
    for clarification in &policy.clarifications {
        if clarification.package != package.name || !policy::in_range(&clarification.versions, &package.version) {
            continue;
        }
        let named =
            |file: &str| file == clarification.file || file.strip_prefix("licenses/") == Some(&clarification.file);
        match package.texts.iter().find(|text| named(&text.file)) {
            Some(text) if text.hash == clarification.hash => {
                resolution.expression = Some(clarification.license.clone());
                (resolution.rung, resolution.confidence) = (Rung::Clarification, 1.0);
                resolution.notes.clear();
                resolution
                    .evidence
                    .push(Evidence { source: "policy".into(), value: format!("clarified by {}", text.file) });
            }
            other => {
                let why = if other.is_some() { "has another content now" } else { "is not there" };
                let message = format!("the clarified file '{}' {why}", printable(&clarification.file));
                findings.push(
                    Finding::new(Code::ClarificationStale, policy.levels.exceptions, message)
                        .with_fix("read the new text and update the clarification"),
                );
            }
        }
    }
    resolution
}

fn bundled(resolution: &Resolution, policy: &Policy, package: &Package, findings: &mut Vec<Finding>) {
    for (expression, file) in &resolution.bundled {
        let class = policy.class_of_expression(expression);
        let level = if class == Class::Approved { Level::Allow } else { policy.levels.bundled };
        let conflicts =
            findings.iter().any(|one| one.code == Code::LicenseConflict && one.message.starts_with(file.as_str()));
        if conflicts || resolution.expression.is_none() {
            continue;
        }
        let message = format!("{file} also states '{expression}' ({}), for bundled code", class.word());
        findings.push(Finding::new(Code::LicenseBundled, level, message).at(package.file.clone(), package.line));
    }
}

fn verdict(
    package: &Package,
    resolution: &Resolution,
    context: Context<'_>,
    findings: &mut Vec<Finding>,
    marks: &mut Marks,
) -> (Class, Option<String>) {
    let policy = context.policy;
    let class = resolution.expression.as_ref().map_or(Class::Unknown, |one| policy.class_of_expression(one));
    if policy.approved_packages.contains(&package.name) {
        return (Class::Approved, Some("the package is approved by the policy".into()));
    }
    if let Some(reason) = excepted(package, resolution, context, findings, marks) {
        return (Class::Approved, Some(reason));
    }
    let (code, fix) = match class {
        Class::Approved => return (class, None),
        Class::Restricted => (Code::LicenseRestricted, "review its use, then add an exception with the reason"),
        Class::Unlisted => (Code::LicenseUnlisted, "add the licence to one of the policy's lists, or an exception"),
        Class::Prohibited => (Code::LicenseProhibited, "replace the package, or add an exception with the reason"),
        Class::Unknown => (Code::LicenseUnknown, "read its licence and add a clarification to the policy"),
    };
    let message = match &resolution.expression {
        Some(expression) => format!("licence '{expression}' is {} ({})", class.word(), because(expression, policy)),
        None if package.metadata.is_none() && package.stated_license.is_none() => {
            "no metadata: its licence is unknown".into()
        }
        None => "no licence is declared and no text was recognised".into(),
    };
    let finding = Finding::new(code, policy.level_of(class), message).with_fix(fix);
    findings.push(finding.at(package.file.clone(), package.line));
    (class, None)
}

/// Which parts of an expression decide.
fn because(expression: &Expression, policy: &Policy) -> String {
    let worst = policy.class_of_expression(expression);
    let mut parts: Vec<String> = expression
        .licenses()
        .into_iter()
        .filter(|license| policy.class_of(license) == worst)
        .map(expression::License::to_string)
        .collect();
    parts.dedup();
    format!("by {}", parts.join(", "))
}

/// The reason of an exception that applies; those that do not are findings.
fn excepted(
    package: &Package,
    resolution: &Resolution,
    context: Context<'_>,
    findings: &mut Vec<Finding>,
    marks: &mut Marks,
) -> Option<String> {
    let (policy, today) = (context.policy, day_of(context.now));
    for (at, exception) in policy.exceptions.iter().enumerate() {
        if exception.package != package.name || !policy::in_range(&exception.versions, &package.version) {
            continue;
        }
        marks.exceptions.push(at);
        if exception.expires.as_ref().is_some_and(|last| *last < today) {
            let message = format!("its exception expired on {}", exception.expires.as_deref().unwrap_or_default());
            findings.push(
                Finding::new(Code::ExceptionExpired, policy.levels.exceptions, message)
                    .with_fix("review it again and set a new date"),
            );
            continue;
        }
        if !resolution.expression.as_ref().is_some_and(|found| found.same_licenses(&exception.license)) {
            let found = resolution.expression.as_ref().map_or_else(|| "none".into(), Expression::to_string);
            let message = format!("its exception expects '{}', but the licence is '{found}'", exception.license);
            findings.push(
                Finding::new(Code::ExceptionMismatch, policy.levels.exceptions, message)
                    .with_fix("review the licence that it has now"),
            );
            continue;
        }
        return Some(exception.reason.clone());
    }
    None
}

fn sources(package: &Package, set: &PackageSet, policy: &Policy, findings: &mut Vec<Finding>) {
    if let Some(origin) = &package.origin
        && !policy.indexes.is_empty()
        && !policy.indexes.iter().any(|prefix| starts_with_url(origin, prefix))
    {
        let message = format!("it comes from {origin}, which the policy does not allow");
        findings.push(
            Finding::new(Code::IndexNotAllowed, policy.indexes_level, message).at(package.file.clone(), package.line),
        );
    }
    let given = match (package.hashed, package.pinned) {
        (true, _) => Pinning::Hash,
        (false, true) => Pinning::Version,
        (false, false) => Pinning::None,
    };
    if set.is_lock && given < policy.pinning {
        let wanted = if policy.pinning == Pinning::Hash { "a hash" } else { "an exact version (==)" };
        let finding = Finding::new(Code::NotPinned, policy.pinning_level, format!("it is not pinned by {wanted}"));
        findings.push(finding.at(package.file.clone(), package.line));
    }
}

/// A prefix that ends at a boundary: `https://a.test` does not allow `https://a.test.evil`.
fn starts_with_url(url: &str, prefix: &str) -> bool {
    url.strip_prefix(prefix).is_some_and(|rest| prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
}

fn banned(package: &Package, policy: &Policy, findings: &mut Vec<Finding>) {
    for (name, versions) in &policy.banned_packages {
        if *name == package.name && policy::in_range(versions, &package.version) {
            let message = format!("{name}{versions} is banned by the policy");
            findings.push(
                Finding::new(Code::PackageBanned, policy.banned_level, message).at(package.file.clone(), package.line),
            );
        }
    }
}

fn behind(package: &Package, context: Context<'_>, findings: &mut Vec<Finding>) {
    let Some(newest) = context.newest.and_then(|all| all.get(&package.name)) else { return };
    let (Ok(have), Ok(new)) = (Version::from_str(&package.version), Version::from_str(&newest.version)) else { return };
    let rule = context.policy.behind;
    let part = |version: &Version, at: usize| version.release().get(at).copied().unwrap_or(0);
    let major = part(&new, 0).saturating_sub(part(&have, 0));
    let minor = if major == 0 { part(&new, 1).saturating_sub(part(&have, 1)) } else { 0 };
    let days = match (newest.day, newest.day_in_use) {
        (Some(new), Some(old)) => u64::try_from(new - old).unwrap_or(0),
        _ => 0,
    };
    if new <= have || (major < rule.major && minor < rule.minor && days < rule.age_days) {
        return;
    }
    let mut message = format!("{} is the newest version", newest.version);
    if major > 0 {
        message.push_str(&format!(", {major} major versions ahead"));
    } else if minor > 0 {
        message.push_str(&format!(", {minor} minor versions ahead"));
    }
    if days > 0 {
        message.push_str(&format!(", released {days} days after the one in use"));
    }
    findings.push(Finding::new(Code::Behind, rule.level, message).with_fix(format!("upgrade to {}", newest.version)));
}
