//! Values with wildcards.

/// A value with at least one `*`. Each `*` matches any text.
pub(super) struct Pattern {
    first: Box<str>,
    middle: Box<[Box<str>]>,
    last: Box<str>,
}

impl Pattern {
    /// Parses a value. Returns `None` if the value contains no `*`.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let (first, rest) = value.split_once('*')?;
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        let middle = middle.split('*').filter(|part| !part.is_empty()).map(Into::into).collect();
        Some(Self { first: first.into(), middle, last: last.into() })
    }

    pub(super) fn matches(&self, value: &str) -> bool {
        let Some(rest) = value.strip_prefix(&*self.first) else { return false };
        let Some(mut rest) = rest.strip_suffix(&*self.last) else { return false };
        self.middle.iter().all(|part| match rest.find(&**part) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
    }

    /// Returns the value as in the file, except that adjacent stars become one star.
    pub(super) fn text(&self) -> String {
        let mut text = self.first.to_string();
        for part in &self.middle {
            text.push('*');
            text.push_str(part);
        }
        text.push('*');
        text.push_str(&self.last);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_star_matches_any_text() {
        let matches = |pattern, value| Pattern::parse(pattern).unwrap().matches(value);
        for (pattern, value, expected) in [
            ("*", "", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("/api*v1", "/api/x/v1", true),
            ("/api*v1", "/apiv1", true),
            ("/api*v1", "/api/v12", false),
            ("a*a", "a", false),
            ("s*e*r", "s1e2r", true),
            ("s*e*r", "sr", false),
            ("*a*b*", "xbxaxbx", true),
            ("*a*b*", "xbxa", false),
        ] {
            assert_eq!(matches(pattern, value), expected, "{pattern} {value}");
        }
        assert!(Pattern::parse("a").is_none());
    }
}
