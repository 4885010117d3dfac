//! Opens the store that the options name.

#[cfg(not(feature = "postgres"))]
use crate::error::{Error, Hint};

/// Does something with the store that the options name.
macro_rules! on_store {
    ($options:expr, $shield:expr, |$store:ident| $work:expr) => {
        match &$options.store {
            None => {
                let $store = crate::store::file::FileStore::new(&$options.config_file, $shield);
                $work
            }
            #[cfg(feature = "postgres")]
            Some(database) => {
                let settings = $options.connection($shield);
                let $store = crate::store::postgres::PostgresStore::open(
                    database,
                    &settings,
                    $options.lock_timeout,
                    $options.refresh_token.as_ref(),
                )
                .map_err(crate::error::Error::before_sending)?;
                $work
            }
            #[cfg(not(feature = "postgres"))]
            Some(_) => Err(crate::store::open::no_postgres().before_sending()),
        }
    };
}
pub(crate) use on_store;

/// The error for a store that this program was built without.
#[cfg(not(feature = "postgres"))]
pub(crate) fn no_postgres() -> Error {
    let message = "this program was built without PostgreSQL";
    Error::config(message).with_hint(Hint::fixed(
        "build it with the feature postgres, or omit --store and FEISHU_STORE",
        "请启用 postgres 特性重新编译，或去掉 --store 与 FEISHU_STORE",
    ))
}
