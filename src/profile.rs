//! What a login is: its keys, which source of a value wins, what is sent where, and what a reply changes. Knows no
//! files: a store says what it holds ([`Snapshot`]), and keeps the result ([`Successor`]).
//!
//! [`Overrides`] came from outside, a [`View`] combines it with a snapshot, a [`RefreshPlan`] is what one refresh sends,
//! [`SpentTokens`] remembers which tokens no longer work.

mod absent;
#[cfg(feature = "postgres")]
mod app_and_addresses;
pub(crate) mod key;
mod login_id;
mod overrides;
mod place;
pub(crate) mod plan;
mod sense;
pub(crate) mod settings;
mod snapshot;
mod spent;
pub(crate) mod status;
mod successor;
pub(crate) mod values;
mod view;

#[cfg(feature = "postgres")]
pub(crate) use app_and_addresses::AppAndAddresses;
pub(crate) use login_id::{LoginId, NO_PROFILE, check_name};
pub(crate) use overrides::Overrides;
pub(crate) use plan::{AppProof, LoginPlan, RefreshPlan};
pub(crate) use settings::Setting;
pub(crate) use snapshot::Snapshot;
pub(crate) use spent::SpentTokens;
pub(crate) use successor::{Origin, Successor};
pub(crate) use values::{Pair, Profile};
pub(crate) use view::{View, consent_api, token_of_another};
