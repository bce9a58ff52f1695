//! Roles: what a caller may do, and who has which role.

use std::fmt;

use super::Secret;

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The calls of gateways: admit, settle, keep alive, and the rate limit service.
    Gateway,
    /// Every call that only looks.
    Reader,
    /// Every change, and everything that readers may do.
    Admin,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Gateway, Self::Reader, Self::Admin];

    /// Returns the name of the role, and of the section that says who has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Reader => "reader",
            Self::Admin => "admin",
        }
    }

    /// Returns the bits of the role and of the roles that it includes.
    fn bits(self) -> u8 {
        match self {
            Self::Gateway => 1,
            Self::Reader => 2,
            Self::Admin => 4 | 2,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of roles. Whoever has the role `admin` also has the role `reader`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    pub const NONE: Self = Self(0);

    #[must_use]
    pub fn has(self, role: Role) -> bool {
        self.0 & role.bits() == role.bits()
    }

    #[must_use]
    pub fn with(self, role: Role) -> Self {
        Self(self.0 | role.bits())
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the roles in the set.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.has(*role))
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        roles.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Somebody who has a role, authenticated by a bearer token.
#[derive(Clone, Debug, PartialEq)]
pub struct RoleToken {
    pub role: Role,
    /// Name of the caller, which the change log shows as `who`.
    pub name: String,
    pub secret: Secret,
}

/// Who has a role: the callers that show a listed token, or a certificate with a listed name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoleRules {
    pub tokens: Vec<RoleToken>,
    /// Names of client certificates: URIs such as SPIFFE IDs, or DNS names in lower case.
    pub certificates: Vec<(Role, String)>,
}

impl RoleRules {
    /// Returns whether anybody can show a token or a certificate that has the role.
    #[must_use]
    pub fn grants(&self, role: Role) -> bool {
        let tokens = self.tokens.iter().map(|token| token.role);
        let mut roles = tokens.chain(self.certificates.iter().map(|(role, _)| *role));
        roles.any(|given| Roles::NONE.with(given).has(role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn administrators_are_readers_but_no_gateways() {
        let admin = Roles::NONE.with(Role::Admin);
        assert_eq!(admin.iter().collect::<Vec<_>>(), [Role::Reader, Role::Admin]);
        let reader = Roles::from_iter([Role::Reader]);
        assert!(reader.has(Role::Reader) && !reader.has(Role::Admin) && !reader.has(Role::Gateway));
        assert!(Roles::NONE.is_empty() && Role::ALL.iter().all(|role| !Roles::NONE.has(*role)));
        let rules = RoleRules { certificates: vec![(Role::Admin, "a".to_owned())], ..RoleRules::default() };
        assert!(rules.grants(Role::Reader) && !rules.grants(Role::Gateway));
    }
}
