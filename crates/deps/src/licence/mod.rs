//! The ladder from what a package says about its licence to one SPDX expression.
//!
//! Rungs, from the most to the least certain: a clarification by the user, the PEP 639 expression, the `License` field
//! when it is SPDX, the alias table, unambiguous classifiers, licence texts, fuzzy names. The first rung that answers
//! wins; those below can only confirm, refine a family to its member ("BSD" to its clause count) or contradict, which is
//! a finding. `UNKNOWN` is absence. What no rung answers stays unknown and is never taken for clean.

pub mod expression;
pub mod names;
pub mod newer;
pub mod text;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::finding::Code;
use crate::metadata::Metadata;
use crate::name::printable;
use expression::Expression;
use names::Named;
use text::TextLicenses;

/// Where on the ladder the answer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// A clarification in the policy, tied to a hash.
    Clarification,
    /// `License-Expression` (PEP 639).
    Expression,
    /// The `License` field, which is an SPDX expression.
    Field,
    /// The `License` field by the alias table.
    Alias,
    /// Classifiers that name one licence each.
    Classifier,
    /// Licence texts.
    Text,
    /// A guess with a stated confidence.
    Fuzzy,
    /// Nothing was found.
    None,
}

impl Rung {
    /// The word in the output.
    pub const fn word(self) -> &'static str {
        match self {
            Rung::Clarification => "clarification",
            Rung::Expression => "expression",
            Rung::Field => "field",
            Rung::Alias => "alias",
            Rung::Classifier => "classifier",
            Rung::Text => "text",
            Rung::Fuzzy => "fuzzy",
            Rung::None => "none",
        }
    }
}

/// A fact that the answer rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Where it was read: a field's name, `classifier`, or a file.
    pub source: String,
    /// What it says, cut to 80 characters.
    pub value: String,
}

/// One licence file and what it states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileText {
    /// Path relative to the package's metadata folder.
    pub file: String,
    /// BLAKE3 of the content, hexadecimal.
    pub hash: String,
    /// What it states.
    pub licenses: TextLicenses,
}

/// The answer for one package.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// The licence; `None` when no rung answered.
    pub expression: Option<Expression>,
    /// The rung that answered.
    pub rung: Rung,
    /// In 0..=1; 1 for what is declared exactly.
    pub confidence: f32,
    /// What was read on the way.
    pub evidence: Vec<Evidence>,
    /// Conflicts, guesses and deprecated identifiers: (code, message).
    pub notes: Vec<(Code, String)>,
    /// Licences stated by texts beyond the declared ones, with the file.
    pub bundled: Vec<(Expression, String)>,
}

/// What one declaration (the field or a classifier) says: one of these identifiers.
type Candidates = Vec<String>;

/// Climbs the ladder. `texts` are the package's licence files, already read.
pub fn resolve(metadata: &Metadata, texts: &[FileText]) -> Resolution {
    let mut ladder = Ladder::new(metadata, texts);
    ladder.climb();
    ladder.check_texts();
    ladder.answer
}

struct Ladder<'a> {
    metadata: &'a Metadata,
    texts: &'a [FileText],
    /// The `License` field when it is a whole text, as its first paragraph would mislead the alias table.
    field_text: Option<TextLicenses>,
    field: Option<&'a str>,
    /// The field says that several licences are a choice.
    choice: bool,
    answer: Resolution,
}

impl<'a> Ladder<'a> {
    fn new(metadata: &'a Metadata, texts: &'a [FileText]) -> Self {
        let field = metadata.license.as_deref().map(str::trim).filter(|value| !is_absent(value));
        let is_text = field.is_some_and(|value| value.contains('\n') || value.len() > 200);
        let field_text = field.filter(|_| is_text).map(text::detect);
        let field = field.filter(|_| !is_text);
        let answer = Resolution {
            expression: None,
            rung: Rung::None,
            confidence: 0.0,
            evidence: Vec::new(),
            notes: Vec::new(),
            bundled: Vec::new(),
        };
        let choice = field.is_some_and(|value| value.to_ascii_lowercase().contains("dual"));
        Self { metadata, texts, field_text, field, choice, answer }
    }

    fn climb(&mut self) {
        for value in &self.metadata.license_classifiers {
            self.evidence("classifier", value);
        }
        if let Some(value) = self.metadata.license_expression.as_deref() {
            self.evidence("License-Expression", value);
            match expression::parse(value) {
                Ok(parsed) => {
                    self.accept(parsed, Rung::Expression);
                    if let Some(field) = self.field_candidates() {
                        self.compare("License", &field);
                    }
                    return self.compare_classifiers();
                }
                Err(why) => self.note(Code::Malformed, format!("License-Expression is not valid: {why}")),
            }
        }
        if let Some(value) = self.field {
            self.evidence("License", value);
            if let Ok(parsed) = expression::parse(value) {
                self.accept(parsed, Rung::Field);
                return self.compare_classifiers();
            }
            if let Some(expression) = alias_expression(value) {
                self.answer.expression = Some(expression);
                (self.answer.rung, self.answer.confidence) = (Rung::Alias, 1.0);
                return self.compare_classifiers();
            }
        }
        if !self.by_declarations() && !self.by_texts() {
            self.by_similarity();
        }
    }

    fn accept(&mut self, parsed: expression::Parsed, rung: Rung) {
        for (old, new) in parsed.replaced {
            self.note(Code::LicenseDeprecated, format!("'{old}' is deprecated, read as '{new}'"));
        }
        self.answer.expression = Some(parsed.expression);
        (self.answer.rung, self.answer.confidence) = (rung, 1.0);
    }

    /// What the field says by the alias table, exact or a family.
    fn field_candidates(&self) -> Option<Candidates> {
        let value = self.field?;
        if let Ok(parsed) = expression::parse(value) {
            return Some(parsed.expression.licenses().iter().map(|license| license.to_string()).collect());
        }
        names::alias(value).map(candidates)
    }

    /// A classifier contradicts when none of the licences it can mean is in the expression.
    fn compare_classifiers(&mut self) {
        for value in &self.metadata.license_classifiers {
            if let Some(named) = names::classifier(value) {
                self.compare("classifier", &candidates(named));
            }
        }
    }

    fn compare(&mut self, source: &str, declared: &Candidates) {
        let Some(expression) = &self.answer.expression else { return };
        let has = expression.licenses().iter().any(|license| {
            declared.iter().any(|id| family(id) == family(&license.id) || id.starts_with("LicenseRef-"))
        });
        if !has {
            let message =
                format!("{source} says {}, but the licence is declared as '{expression}'", declared.join(" or "));
            self.note(Code::LicenseConflict, message);
        }
    }

    /// Classifiers, with a family named by the field; families are narrowed by each other and by texts.
    fn by_declarations(&mut self) -> bool {
        let mut declared: Vec<Candidates> = Vec::new();
        for value in &self.metadata.license_classifiers {
            if let Some(named) = names::classifier(value) {
                declared.push(candidates(named));
            }
        }
        let mut rung = if declared.is_empty() { Rung::Alias } else { Rung::Classifier };
        if let Some(named) = self.field.and_then(names::alias) {
            declared.push(candidates(named));
        }
        let mut declared = narrow(declared);
        if declared.is_empty() {
            return false;
        }
        let stated = self.stated();
        let mut confidence: f32 = if rung == Rung::Alias { 1.0 } else { 0.95 };
        for set in declared.iter_mut().filter(|set| set.len() > 1) {
            let exact = stated.iter().find(|(id, _)| set.contains(id)).cloned();
            let text = exact.or_else(|| {
                stated.iter().find_map(|(id, share)| {
                    set.iter().find(|candidate| same_text(candidate, id)).map(|candidate| (candidate.clone(), *share))
                })
            });
            if let Some((id, share)) = text {
                *set = vec![id];
                confidence = confidence.min(share);
                rung = Rung::Text;
                continue;
            }
            let (usual, likely) = (set[0].clone(), if set[0] == "Apache-2.0" { 0.9 } else { 0.6 });
            let message = format!("the declared name can mean {}; the first is assumed", set.join(", "));
            self.answer.notes.push((Code::LicenseUncertain, message));
            *set = vec![usual];
            confidence = confidence.min(likely);
            rung = Rung::Fuzzy;
        }
        let ids: BTreeSet<String> = declared.into_iter().flatten().collect();
        self.combine(ids, rung, confidence);
        true
    }

    /// Several licences: a choice when the field says so, else all of them, which is the careful reading.
    fn combine(&mut self, ids: BTreeSet<String>, rung: Rung, confidence: f32) {
        let several = ids.len() > 1;
        let mut parts: Vec<Expression> =
            ids.iter().filter_map(|id| Some(expression::parse(id).ok()?.expression)).collect();
        let expression = match (parts.len(), self.choice) {
            (0, _) => return,
            (1, _) => parts.remove(0),
            (_, true) => Expression::Or(parts),
            (_, false) => Expression::And(parts),
        };
        if several && !self.choice {
            let message = format!("several licences are named but not how they combine; read as '{expression}'");
            self.note(Code::LicenseUncertain, message);
        }
        self.answer.expression = Some(expression);
        (self.answer.rung, self.answer.confidence) = (rung, confidence);
    }

    /// What texts state, best first: the field's own text before the files.
    fn stated(&self) -> Vec<(String, f32)> {
        let field = self.field_text.iter().flat_map(|text| text.found.iter());
        let files = self.texts.iter().flat_map(|file| file.licenses.found.iter());
        field.chain(files).cloned().collect()
    }

    fn by_texts(&mut self) -> bool {
        let stated = self.stated();
        let ids: BTreeSet<String> = stated.iter().map(|(id, _)| id.clone()).collect();
        if ids.is_empty() {
            return false;
        }
        let confidence = stated.iter().map(|(_, share)| *share).fold(1.0, f32::min);
        if let Some(gnu) = ids.iter().find(|id| id.ends_with("-only")) {
            let message = format!("the text of {gnu} does not say whether later versions may be chosen; read as only");
            self.note(Code::LicenseUncertain, message);
        }
        self.combine(ids, Rung::Text, confidence);
        true
    }

    fn by_similarity(&mut self) {
        let Some((expression, confidence)) = self.field.and_then(names::fuzzy) else { return };
        let value = printable(self.field.unwrap_or_default());
        self.note(
            Code::LicenseUncertain,
            format!("'{value}' was read as '{expression}' by likeness ({confidence:.2})"),
        );
        self.answer.expression = Some(expression);
        (self.answer.rung, self.answer.confidence) = (Rung::Fuzzy, confidence);
    }

    /// Texts against the answer: nothing in common is a conflict, more than the answer is bundled code.
    fn check_texts(&mut self) {
        let mut all: Vec<(&str, &TextLicenses)> = Vec::new();
        if let Some(text) = &self.field_text {
            all.push(("License", text));
        }
        all.extend(self.texts.iter().map(|file| (file.file.as_str(), &file.licenses)));
        let mut confirmed = false;
        let mut others: Vec<(Expression, String)> = Vec::new();
        for (file, text) in all {
            for (id, share) in &text.found {
                self.answer.evidence.push(Evidence { source: file.to_owned(), value: format!("{id} ({share:.2})") });
            }
            let found = text.found.iter().map(|(id, _)| id).chain(&text.bundled);
            for parsed in found.filter_map(|spelled| expression::parse(spelled).ok()) {
                let Some(answer) = &self.answer.expression else { continue };
                let known =
                    |license: &expression::License| answer.licenses().iter().any(|own| same_text(&own.id, &license.id));
                if parsed.expression.licenses().iter().all(|license| known(license)) {
                    confirmed = true;
                } else if !others.iter().any(|(have, _)| have.same_licenses(&parsed.expression)) {
                    others.push((parsed.expression, file.to_owned()));
                }
            }
        }
        if let (false, Some((other, file)), Some(answer)) = (confirmed, others.first(), &self.answer.expression) {
            let message = format!("{file} states '{other}', but the licence is declared as '{answer}'");
            self.answer.notes.push((Code::LicenseConflict, message));
        }
        self.answer.bundled = others;
    }

    fn note(&mut self, code: Code, message: String) {
        self.answer.notes.push((code, message));
    }

    fn evidence(&mut self, source: &str, value: &str) {
        self.answer.evidence.push(Evidence { source: source.to_owned(), value: printable(value) });
    }
}

/// Values that say nothing.
fn is_absent(value: &str) -> bool {
    const ABSENT: &[&str] = &[
        "",
        "unknown",
        "none",
        "n/a",
        "na",
        "tbd",
        "todo",
        "license",
        "license.txt",
        "license.md",
        "license.rst",
        "licence",
        "see license",
        "see license file",
        "see license.txt",
        "other",
        "file: license",
        "copying",
        "dynamic",
        "undefined",
    ];
    ABSENT.iter().any(|absent| value.eq_ignore_ascii_case(absent))
}

fn candidates(named: &Named) -> Candidates {
    match named {
        Named::Exact(id) => vec![(*id).to_owned()],
        Named::Ambiguous(ids) => ids.iter().map(|id| (*id).to_owned()).collect(),
    }
}

/// The alias table, also for a list of names: "/" and "or" are a choice, "and", "," and "&" mean all.
fn alias_expression(value: &str) -> Option<Expression> {
    if let Some(Named::Exact(id)) = names::alias(value) {
        return expression::parse(id).ok().map(|parsed| parsed.expression);
    }
    let list = |separators: &[&str]| -> Option<Vec<Expression>> {
        let mut parts = vec![value.to_owned()];
        for separator in separators {
            parts = parts.iter().flat_map(|part| part.split(separator)).map(str::to_owned).collect();
        }
        if parts.len() < 2 || parts.len() > 8 {
            return None;
        }
        parts.iter().map(|part| one_name(part.trim())).collect()
    };
    if let Some(parts) = list(&["/", " or ", " OR ", "|"]) {
        return Some(Expression::Or(parts));
    }
    list(&[" and ", " AND ", ",", "&", ";"]).map(Expression::And)
}

fn one_name(name: &str) -> Option<Expression> {
    if let Ok(parsed) = expression::parse(name) {
        return Some(parsed.expression);
    }
    match names::alias(name)? {
        Named::Exact(id) => expression::parse(id).ok().map(|parsed| parsed.expression),
        Named::Ambiguous(_) => None,
    }
}

/// Drops a family whose member is named too, and intersects families that overlap.
fn narrow(mut declared: Vec<Candidates>) -> Vec<Candidates> {
    declared.sort_by_key(Vec::len);
    let mut kept: Vec<Candidates> = Vec::new();
    for set in declared {
        let overlap = kept.iter_mut().find(|have| have.iter().any(|id| set.contains(id)));
        match overlap {
            Some(have) => have.retain(|id| set.contains(id)),
            None => kept.push(set),
        }
    }
    kept
}

/// An identifier without what a text or a classifier cannot tell: "only" or "or later".
fn family(id: &str) -> &str {
    let id = id.split(" WITH ").next().unwrap_or(id);
    id.strip_suffix("-only").or_else(|| id.strip_suffix("-or-later")).unwrap_or(id)
}

/// Whether two identifiers share one text.
fn same_text(a: &str, b: &str) -> bool {
    family(a) == family(b)
        || matches!((a, b), ("PSF-2.0", "Python-2.0") | ("Python-2.0", "PSF-2.0") | ("X11", "MIT") | ("MIT", "X11"))
}
