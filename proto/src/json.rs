//! The messages as JSON: fields as in the .proto files, enums by their short names in lower case, 64-bit numbers as
//! numbers, null for what is unset. Reading rejects unknown fields; a missing field has its default.

use crate::v1;

/// An enum of the API.
pub trait Named {
    /// Short names and numbers; the unspecified value has none.
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

/// One enum: a name, or null if unspecified.
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

/// A list of an enum's names.
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
