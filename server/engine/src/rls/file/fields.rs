//! The fields of a file of limits, by level.

/// A level of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    File,
    Descriptor,
    Limit,
    Replaced,
}

impl Level {
    pub(super) fn fields(self) -> &'static [&'static str] {
        match self {
            Self::File => &["domain", "descriptors", "name"],
            Self::Descriptor => &[
                "key",
                "value",
                "rate_limit",
                "descriptors",
                "shadow_mode",
                "quota_mode",
                "detailed_metric",
                "value_to_metric",
                "share_threshold",
                "metadata",
            ],
            Self::Limit => &["unit", "requests_per_unit", "unlimited", "name", "replaces"],
            Self::Replaced => &["name"],
        }
    }

    /// Describes where a field of this level belongs.
    fn place(self) -> &'static str {
        match self {
            Self::File => "at the top of the file, beside domain",
            Self::Descriptor => "in a descriptor, beside key",
            Self::Limit => "in rate_limit",
            Self::Replaced => "in an entry of replaces",
        }
    }

    /// Explains a field that this level does not have: it may belong to another level, or its name may be written
    /// differently.
    pub(super) fn explain(self, field: &str) -> String {
        let plain = |name: &str| name.replace(['_', '-'], "").to_ascii_lowercase();
        let known = self.fields().iter().find(|known| plain(known) == plain(field));
        let elsewhere = [Self::Descriptor, Self::Limit, Self::File]
            .into_iter()
            .find(|level| *level != self && level.fields().contains(&field));
        match (known, elsewhere) {
            (Some(known), _) => format!("must be {known}, got {field}"),
            (None, Some(level)) => format!("must be {}, got it {}", level.place(), self.place()),
            (None, None) => {
                format!("must be one of {}, got a field of another name", self.fields().join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_at_the_wrong_level_is_named_as_such() {
        let cases = [
            (
                Level::Descriptor,
                "requests_per_unit",
                "must be in rate_limit, got it in a descriptor, beside key",
            ),
            (Level::Descriptor, "unlimited", "must be in rate_limit, got it in a descriptor, beside key"),
            (Level::Limit, "shadow_mode", "must be in a descriptor, beside key, got it in rate_limit"),
            (Level::Limit, "descriptors", "must be in a descriptor, beside key, got it in rate_limit"),
            (
                Level::File,
                "rate_limit",
                "must be in a descriptor, beside key, got it at the top of the file, beside domain",
            ),
            (
                Level::Descriptor,
                "domain",
                "must be at the top of the file, beside domain, got it in a descriptor, beside key",
            ),
            (Level::Descriptor, "rateLimit", "must be rate_limit, got rateLimit"),
            (Level::Limit, "requests-per-unit", "must be requests_per_unit, got requests-per-unit"),
            (Level::Replaced, "x", "must be one of name, got a field of another name"),
        ];
        for (level, field, expected) in cases {
            assert_eq!(level.explain(field), expected);
        }
    }
}
