//! What all databases of a server share: the artifact `globals.json`. No passwords.

use crate::server::{Session, ask};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::ControlFlow;
use strongroom_plugin::prelude::*;

/// Name of the artifact.
pub(crate) const ARTIFACT: &str = "globals.json";

/// Name of the artifact with the stored form of passwords, which the plugin never reads.
pub(crate) const PASSWORDS: &str = "role-passwords.jsonl";

/// The rows of `globals.sql`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Globals {
    pub(crate) roles: Vec<Role>,
    pub(crate) memberships: Vec<Membership>,
    pub(crate) settings: Vec<Setting>,
    pub(crate) tablespaces: Vec<Tablespace>,
    pub(crate) privileges: Vec<Privileges>,
    pub(crate) databases: Vec<DatabaseRow>,
}

/// A role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Role {
    pub(crate) name: String,
    /// The role that `initdb` made.
    pub(crate) bootstrap: bool,
    #[serde(rename = "super")]
    pub(crate) superuser: bool,
    pub(crate) inherit: bool,
    pub(crate) create_role: bool,
    pub(crate) create_db: bool,
    pub(crate) login: bool,
    pub(crate) replication: bool,
    pub(crate) bypass_rls: bool,
    pub(crate) connection_limit: i64,
    pub(crate) valid_until: Option<String>,
    pub(crate) comment: Option<String>,
}

/// A role in another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(crate) role: String,
    pub(crate) member: String,
    pub(crate) grantor: Option<String>,
    /// Granted by the role that `initdb` made, or by one that is gone.
    pub(crate) grantor_bootstrap: bool,
    pub(crate) admin: bool,
    /// None before PostgreSQL 16.
    pub(crate) inherit: Option<bool>,
    /// None before PostgreSQL 16.
    pub(crate) set: Option<bool>,
}

/// A setting of a role, of a database, or of a role in a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub(crate) role: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) name: String,
    pub(crate) value: String,
}

/// A tablespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tablespace {
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) location: String,
    pub(crate) options: Option<Vec<String>>,
    pub(crate) comment: Option<String>,
}

/// Privileges on a database, a tablespace or a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Privileges {
    pub(crate) object: String,
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) grants: Vec<Grant>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// None is PUBLIC.
    pub(crate) grantee: Option<String>,
    pub(crate) privilege: String,
    pub(crate) grantable: bool,
}

/// The properties of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DatabaseRow {
    pub(crate) name: String,
    pub(crate) owner: Option<String>,
    pub(crate) encoding: String,
    pub(crate) collate: String,
    pub(crate) ctype: String,
    /// As in `pg_database`: c, i or b.
    pub(crate) provider: String,
    pub(crate) locale: Option<String>,
    pub(crate) icu_rules: Option<String>,
    pub(crate) collation_version: Option<String>,
    pub(crate) connection_limit: i64,
    pub(crate) tablespace: Option<String>,
    pub(crate) comment: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Row {
    Role(Role),
    Membership(Membership),
    Setting(Setting),
    Tablespace(Tablespace),
    Privileges(Privileges),
    Database(DatabaseRow),
    End,
}

impl Globals {
    /// Asks the server through `label`.
    pub(crate) fn ask(label: &str, database: &str) -> Result<Self> {
        let mut globals = Self::default();
        Session::open(ask(label, database))?.rows(|row| {
            match row {
                Row::Role(row) => globals.roles.push(row),
                Row::Membership(row) => globals.memberships.push(row),
                Row::Setting(row) => globals.settings.push(row),
                Row::Tablespace(row) => globals.tablespaces.push(row),
                Row::Privileges(row) => globals.privileges.push(row),
                Row::Database(row) => globals.databases.push(row),
                Row::End => return Ok(ControlFlow::Break(())),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(globals)
    }

    /// The globals of the backup in scope.
    pub(crate) fn load() -> Result<Self> {
        let mut json = Vec::new();
        storage::get(ARTIFACT)?.read_to_end(&mut json)?;
        Ok(serde_json::from_slice(&json)?)
    }

    /// The properties of a database.
    pub(crate) fn database(&self, name: &str) -> Option<&DatabaseRow> {
        self.databases.iter().find(|row| row.name == name)
    }

    /// The role of this name.
    pub(crate) fn role(&self, name: &str) -> Option<&Role> {
        self.roles.iter().find(|role| role.name == name)
    }

    /// Memberships in an order in which each grantor already holds the admin option that it
    /// grants by. What is left in a circle comes last, as the server's own superuser would grant it.
    pub(crate) fn memberships_in_order(&self) -> Vec<Membership> {
        let mut left: Vec<&Membership> = self.memberships.iter().collect();
        let mut done: Vec<Membership> = Vec::new();
        let superusers: Vec<&str> =
            self.roles.iter().filter(|role| role.superuser).map(|role| role.name.as_str()).collect();
        loop {
            let before = left.len();
            left.retain(|row| {
                let by_superuser =
                    row.grantor_bootstrap || row.grantor.as_deref().is_none_or(|grantor| superusers.contains(&grantor));
                let ready = by_superuser
                    || done.iter().any(|earlier| {
                        earlier.role == row.role && Some(&earlier.member) == row.grantor.as_ref() && earlier.admin
                    });
                if ready {
                    done.push(Membership { grantor_bootstrap: by_superuser, ..(*row).clone() });
                }
                !ready
            });
            if left.len() == before {
                break;
            }
        }
        done.extend(left.into_iter().map(|row| Membership { grantor_bootstrap: true, ..row.clone() }));
        done
    }
}

impl Role {
    /// The attributes that differ from `there`, as the row that `ALTER ROLE` needs: the names of
    /// what differs are its keys.
    pub(crate) fn difference(&self, there: &Role) -> BTreeMap<String, serde_json::Value> {
        let mut differing = BTreeMap::new();
        let (Ok(serde_json::Value::Object(wanted)), Ok(serde_json::Value::Object(found))) =
            (serde_json::to_value(self), serde_json::to_value(there))
        else {
            return differing;
        };
        for (key, value) in wanted {
            // A comment that is only on the target is left alone.
            let kept = matches!(key.as_str(), "name" | "bootstrap") || (key == "comment" && value.is_null());
            if !kept && found.get(&key) != Some(&value) {
                differing.insert(key, value);
            }
        }
        differing
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Globals, Membership, Role};

    pub(crate) fn role(name: &str) -> Role {
        Role {
            name: name.to_owned(),
            bootstrap: false,
            superuser: false,
            inherit: true,
            create_role: false,
            create_db: false,
            login: false,
            replication: false,
            bypass_rls: false,
            connection_limit: -1,
            valid_until: None,
            comment: None,
        }
    }

    fn membership(role: &str, member: &str, grantor: &str, bootstrap: bool) -> Membership {
        Membership {
            role: role.to_owned(),
            member: member.to_owned(),
            grantor: Some(grantor.to_owned()),
            grantor_bootstrap: bootstrap,
            admin: true,
            inherit: None,
            set: None,
        }
    }

    #[test]
    fn a_role_differs_in_what_would_be_altered() {
        let recorded = Role { login: true, valid_until: None, ..role("a") };
        let there =
            Role { valid_until: Some("2030".to_owned()), comment: Some("x".to_owned()), bootstrap: true, ..role("a") };
        let difference = recorded.difference(&there);
        assert_eq!(difference.keys().collect::<Vec<_>>(), ["login", "valid_until"]);
        assert!(recorded.difference(&recorded).is_empty());
    }

    #[test]
    fn memberships_follow_those_that_their_grantors_hold() {
        let globals = Globals {
            memberships: vec![
                membership("r", "c", "b", false),
                membership("r", "b", "a", false),
                membership("r", "a", "postgres", true),
                membership("q", "x", "y", false),
            ],
            ..Globals::default()
        };
        let order: Vec<(String, bool)> =
            globals.memberships_in_order().into_iter().map(|row| (row.member, row.grantor_bootstrap)).collect();
        let expected = [("a", true), ("b", false), ("c", false), ("x", true)];
        assert_eq!(order, expected.map(|(member, bootstrap)| (member.to_owned(), bootstrap)));
    }
}
