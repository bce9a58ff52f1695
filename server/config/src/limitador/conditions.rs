//! Converts Limitador's conditions to Evenkeel's. A condition of Limitador is false if it tests an absent entry, also with
//! `!=`.

use super::expression::{Predicate, Test};
use crate::{
    higress::KeyMatch,
    limits::raw::{RawCondition, RawMatcher},
};

pub(super) struct Conditions<'a> {
    /// Returns the attribute of an entry.
    pub(super) attribute: &'a mut dyn FnMut(&str) -> String,
}

impl Conditions<'_> {
    /// Returns conditions that all hold if and only if the predicate does.
    ///
    /// # Errors
    /// Returns what has no equivalent.
    pub(super) fn of(&mut self, predicate: &Predicate) -> Result<Vec<RawCondition>, String> {
        match predicate {
            Predicate::Always => Ok(Vec::new()),
            Predicate::All(parts) => {
                let parts: Result<Vec<_>, String> = parts.iter().map(|part| self.of(part)).collect();
                Ok(parts?.concat())
            }
            Predicate::Any(parts) => {
                let test = any(parts).ok_or_else(|| {
                    "an || of other tests than == and in of one entry, for which the gateway must send one entry"
                        .to_owned()
                })?;
                self.of(&test)
            }
            Predicate::Test { entry, test } => {
                let matcher = matcher(test)?;
                Ok(vec![self.holds(entry, matcher)])
            }
            Predicate::Not(negated) => match &**negated {
                Predicate::Not(inner) => self.of(inner),
                Predicate::Test { entry, test } => self.not(entry, test),
                _ => Err("a ! before several tests".to_owned()),
            },
        }
    }

    fn not(&mut self, entry: &str, test: &Test) -> Result<Vec<RawCondition>, String> {
        let is_present = |present| RawMatcher { present: Some(present), ..RawMatcher::default() };
        let test = match test {
            Test::Present => return Ok(vec![self.holds(entry, is_present(false))]),
            // An empty value counts as absent.
            Test::OneOf(values) => {
                let values: Vec<String> = values.iter().filter(|value| !value.is_empty()).cloned().collect();
                if values.is_empty() {
                    return Ok(vec![self.holds(entry, is_present(true))]);
                }
                Test::OneOf(values)
            }
            other => other.clone(),
        };
        let attribute = (self.attribute)(entry);
        let not = RawCondition { attribute, not: Some(matcher(&test)?), ..RawCondition::default() };
        Ok(vec![not, self.holds(entry, is_present(true))])
    }

    fn holds(&mut self, entry: &str, matcher: RawMatcher) -> RawCondition {
        let RawMatcher { exact, one_of, prefix, regex, cidr, present } = matcher;
        let attribute = (self.attribute)(entry);
        RawCondition { attribute, exact, one_of, prefix, regex, cidr, present, not: None }
    }
}

/// Merges alternatives that compare one entry with texts.
fn any(parts: &[Predicate]) -> Option<Predicate> {
    let mut merged: Option<(String, Vec<String>)> = None;
    for part in parts {
        let (entry, values) = match part {
            Predicate::Test { entry, test: Test::OneOf(values) } => (entry.clone(), values.clone()),
            Predicate::Any(parts) => match any(parts)? {
                Predicate::Test { entry, test: Test::OneOf(values) } => (entry, values),
                _ => return None,
            },
            _ => return None,
        };
        match &mut merged {
            Some((known, all)) if *known == entry => all.extend(values),
            Some(_) => return None,
            None => merged = Some((entry, values)),
        }
    }
    let (entry, values) = merged?;
    Some(Predicate::Test { entry, test: Test::OneOf(values) })
}

fn matcher(test: &Test) -> Result<RawMatcher, String> {
    let text = |text: &String| {
        if text.is_empty() { Err("the empty text".to_owned()) } else { Ok(regex::escape(text)) }
    };
    let regex = |regex: String| RawMatcher { regex: Some(regex), ..RawMatcher::default() };
    Ok(match test {
        Test::OneOf(values) => {
            if values.iter().any(String::is_empty) {
                // Evenkeel cannot distinguish an empty value from an absent one.
                return Err("a comparison with the empty text".to_owned());
            }
            let mut unique: Vec<String> = Vec::with_capacity(values.len());
            for value in values {
                if !unique.contains(value) {
                    unique.push(value.clone());
                }
            }
            match <[String; 1]>::try_from(unique) {
                Ok([exact]) => RawMatcher { exact: Some(exact), ..RawMatcher::default() },
                Err(values) => RawMatcher { one_of: Some(values), ..RawMatcher::default() },
            }
        }
        Test::Prefix(prefix) => {
            text(prefix)?;
            RawMatcher { prefix: Some(prefix.clone()), ..RawMatcher::default() }
        }
        Test::Suffix(suffix) => regex(format!("(?s:.*){}", text(suffix)?)),
        Test::Contains(part) => regex(format!("(?s:.*){}(?s:.*)", text(part)?)),
        Test::Matches(source) => {
            text(source)?;
            match KeyMatch::regex(source) {
                KeyMatch::Exact(exact) => RawMatcher { exact: Some(exact), ..RawMatcher::default() },
                KeyMatch::Prefix(prefix) => RawMatcher { prefix: Some(prefix), ..RawMatcher::default() },
                KeyMatch::Regex(source) => regex(source),
                KeyMatch::All | KeyMatch::Network(_) => {
                    RawMatcher { present: Some(true), ..RawMatcher::default() }
                }
            }
        }
        Test::Present => RawMatcher { present: Some(true), ..RawMatcher::default() },
    })
}
