//! Persistent storage: one embedded database for all practices of a provider.

use std::path::{Path, PathBuf};

use jiff::civil::Date;
use redb::{Database, ReadableDatabase as _, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::state::{Change, StoredState};
use spine_types::OdsCode;

/// Table of one kind of record, keyed by practice and number.
type DiskTable = TableDefinition<'static, (&'static str, u32), &'static [u8]>;

const SLOTS: DiskTable = TableDefinition::new("slots");
const BOOKINGS: DiskTable = TableDefinition::new("appointments");
const PATIENTS: DiskTable = TableDefinition::new("patients");
const DAYS: DiskTable = TableDefinition::new("days");
const SEEDS: DiskTable = TableDefinition::new("seeds");
/// Every table of the database.
const ALL: [DiskTable; 5] = [SLOTS, BOOKINGS, PATIENTS, DAYS, SEEDS];

/// Error returned when the simulator's database cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DiskStoreError(String);

impl DiskStoreError {
    pub(super) const fn new(why: String) -> Self {
        Self(why)
    }

    fn at(path: &Path, why: &dyn std::fmt::Display) -> Self {
        Self(format!("{}: {why}", path.display()))
    }
}

/// Database of all practices; a write is durable when it returns.
pub(super) struct DiskStore {
    path: PathBuf,
    database: Database,
}

impl DiskStore {
    /// Opens the database, or creates it.
    pub(super) fn open(path: &Path) -> Result<Self, DiskStoreError> {
        let database = Database::create(path).map_err(|why| DiskStoreError::at(path, &why))?;
        let disk = Self { path: path.to_owned(), database };
        disk.transaction(|transaction| {
            for table in ALL {
                transaction.open_table(table)?;
            }
            Ok(())
        })?;
        Ok(disk)
    }

    /// Loads all data of a practice.
    pub(super) fn load(&self, ods: &OdsCode) -> Result<StoredState, DiskStoreError> {
        let read = || -> Result<StoredState, DiskFault> {
            let mut state = StoredState::default();
            self.for_each(SLOTS, ods, |id, slot| state.apply(Change::Slot(id, slot)))?;
            self.for_each(BOOKINGS, ods, |id, booking| state.apply(Change::Booking(id, booking)))?;
            self.for_each(PATIENTS, ods, |id, patient| state.apply(Change::Patient(id, patient)))?;
            self.for_each(DAYS, ods, |_, day| state.apply(Change::Day(day)))?;
            self.for_each(SEEDS, ods, |_, text| state.apply(Change::Seed(text)))?;
            Ok(state)
        };
        read().map_err(|why| self.fault(why))
    }

    /// Writes changes in one transaction: all of them, or none.
    pub(super) fn write(&self, ods: &OdsCode, changes: &[Change]) -> Result<(), DiskStoreError> {
        self.transaction(|transaction| {
            let rows = PracticeRows { transaction, ods };
            for change in changes {
                match change {
                    Change::Slot(id, slot) => rows.put(SLOTS, *id, slot)?,
                    Change::Booking(id, booking) => rows.put(BOOKINGS, *id, booking)?,
                    Change::Patient(id, patient) => rows.put(PATIENTS, *id, patient)?,
                    Change::Day(day) => rows.put(DAYS, day_number(*day)?, day)?,
                    Change::Seed(text) => rows.put(SEEDS, 0, text)?,
                    Change::RemoveSlot(id) => rows.remove(SLOTS, *id)?,
                    Change::RemoveDay(day) => rows.remove(DAYS, day_number(*day)?)?,
                }
            }
            Ok(())
        })
    }

    /// Deletes all data of a practice.
    pub(super) fn clear(&self, ods: &OdsCode) -> Result<(), DiskStoreError> {
        self.transaction(|transaction| {
            for table in ALL {
                let mut table = transaction.open_table(table)?;
                table.retain_in((ods.as_str(), 0)..=(ods.as_str(), u32::MAX), |_, _| false)?;
            }
            Ok(())
        })
    }

    fn for_each<T: DeserializeOwned>(
        &self,
        table: DiskTable,
        ods: &OdsCode,
        mut visit: impl FnMut(u32, T),
    ) -> Result<(), DiskFault> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(table)?;
        for row in table.range((ods.as_str(), 0)..=(ods.as_str(), u32::MAX))? {
            let (key, value) = row?;
            visit(key.value().1, serde_json::from_slice(value.value())?);
        }
        Ok(())
    }

    fn transaction(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), DiskFault>,
    ) -> Result<(), DiskStoreError> {
        let commit = || -> Result<(), DiskFault> {
            let transaction = self.database.begin_write()?;
            change(&transaction)?;
            Ok(transaction.commit()?)
        };
        commit().map_err(|why| self.fault(why))
    }

    #[expect(clippy::needless_pass_by_value, reason = "used as a function in `map_err`")]
    fn fault(&self, why: DiskFault) -> DiskStoreError {
        DiskStoreError::at(&self.path, &why)
    }
}

/// Returns a day as the number `yyyyMMdd`, which sorts by date; fails for a day before the year 0.
fn day_number(day: Date) -> Result<u32, DiskFault> {
    let parts =
        [i32::from(day.year()) * 10_000, i32::from(day.month()) * 100, i32::from(day.day())];
    Ok(u32::try_from(parts.iter().sum::<i32>())?)
}

/// Rows of one practice in a transaction.
struct PracticeRows<'a> {
    transaction: &'a WriteTransaction,
    ods: &'a OdsCode,
}

impl PracticeRows<'_> {
    fn put<T: Serialize>(&self, table: DiskTable, id: u32, record: &T) -> Result<(), DiskFault> {
        let text = serde_json::to_vec(record)?;
        self.transaction.open_table(table)?.insert((self.ods.as_str(), id), text.as_slice())?;
        Ok(())
    }

    fn remove(&self, table: DiskTable, id: u32) -> Result<(), DiskFault> {
        self.transaction.open_table(table)?.remove((self.ods.as_str(), id))?;
        Ok(())
    }
}

/// Error of the database, or of encoding a record or its key.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct DiskFault(Box<dyn std::error::Error + Send + Sync>);

macro_rules! faults {
    ($($kind:ty),*) => {
        $(impl From<$kind> for DiskFault {
            fn from(why: $kind) -> Self {
                Self(Box::new(why))
            }
        })*
    };
}

faults!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    std::num::TryFromIntError,
    serde_json::Error
);
