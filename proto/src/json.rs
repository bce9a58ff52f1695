//! The messages as JSON. Fields have the names in the .proto files. An enum value is its short name in lower case, a
//! 64-bit number is a JSON number, and an unset field is null. Deserialization rejects unknown fields and gives a
//! missing field its default.

use crate::v1;

/// An enum whose values have short names in JSON.
pub trait Named {
    /// Short names and numbers. The unspecified value has no short name.
    const NAMES: &[(&str, i32)];

    /// Returns the short name of a number; `None` for the unspecified value and for values of a newer version.
    #[must_use]
    fn short_name(number: i32) -> Option<&'static str> {
        Self::NAMES.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
    }
}

include!("../generated/enum_names.rs");

fn number<E: Named, Error: serde::de::Error>(name: &str) -> Result<i32, Error> {
    let found = E::NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    found.ok_or_else(|| {
        let known: Vec<&str> = E::NAMES.iter().map(|(name, _)| *name).collect();
        let got: String = name.chars().take(64).collect();
        Error::custom(format_args!("must be one of {}, got {got:?}", known.join(", ")))
    })
}

/// Serializes and deserializes an enum value as its short name, or as null if it is unspecified.
pub(crate) mod enumeration {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Named;

    pub(crate) fn serialize<E: Named, S: Serializer>(number: &i32, serializer: S) -> Result<S::Ok, S::Error> {
        E::short_name(*number).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, E: Named, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
        let name = Option::<Cow<'de, str>>::deserialize(deserializer)?;
        name.filter(|name| !name.is_empty()).map_or(Ok(0), |name| super::number::<E, _>(&name))
    }
}

/// Serializes and deserializes a list of enum values as a list of short names.
pub(crate) mod enums {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::Named;

    pub(crate) fn serialize<E: Named, S: Serializer>(numbers: &[i32], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(numbers.iter().map(|number| E::short_name(*number)))
    }

    pub(crate) fn deserialize<'de, E: Named, D: Deserializer<'de>>(d: D) -> Result<Vec<i32>, D::Error> {
        let names = Vec::<Cow<'de, str>>::deserialize(d)?;
        names.iter().map(|name| super::number::<E, _>(name)).collect()
    }
}
