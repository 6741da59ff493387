//! The seats of a data directory: who this gateway is, and where its journal lies.
//!
//! A seat is a gateway's identity and a journal that one process at a time may have open. A gateway sits in the first that
//! is free: as a rule the first one, and another one while its predecessor still ends what runs (an upgrade), if
//! quotas are shared in a bank that tells the two apart. What a process left behind in a seat that nobody took again
//! is brought in order by whoever sits beside it: its requests become `interrupted` rows, and the bank hears that
//! nothing is held there any more.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use admission::StoreError;
use domain::{Clock, GatewayId};

use crate::{Database, JournaledLedger};

/// A gateway's identity and its journal, which is open.
pub(crate) struct Seat {
    pub(crate) number: usize,
    pub(crate) gateway: GatewayId,
    pub(crate) ledger: JournaledLedger,
}

/// The first of `seats` seats in `data` that is free.
pub(crate) async fn take(
    data: &Path,
    seats: usize,
    database: &Database,
    clock: &Arc<dyn Clock>,
) -> Result<Seat, StoreError> {
    for number in 0..seats {
        if let Some(seat) = take_one(data, number, database, clock).await? {
            return Ok(seat);
        }
    }
    let problem = format!("{} is in use by another process", journal(data, 0).display());
    Err(StoreError::new("open ledger journal", problem))
}

/// This seat, if nobody sits there.
pub(crate) async fn take_one(
    data: &Path,
    number: usize,
    database: &Database,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Seat>, StoreError> {
    let path = journal(data, number);
    let ledger = JournaledLedger::open_if_free(&path, database.clone(), Arc::clone(clock)).await?;
    let Some(ledger) = ledger else { return Ok(None) };
    let gateway = gateway_id(data, number)?;
    Ok(Some(Seat { number, gateway, ledger }))
}

/// The journal of a seat. It exists while somebody sits there, and after whoever sat there died.
pub(crate) fn journal(data: &Path, number: usize) -> PathBuf {
    data.join(numbered("ledger", number) + ".journal")
}

/// Which gateway sits there, made on first use.
fn gateway_id(data: &Path, number: usize) -> Result<GatewayId, StoreError> {
    let path = data.join(numbered("gateway-id", number));
    let text = crate::open::keep(&path, GatewayId::generate().to_string().as_bytes())
        .map_err(|error| StoreError::new("keep gateway id", error))?;
    let text = String::from_utf8_lossy(&text);
    text.trim().parse().map_err(|error| StoreError::new("read gateway id", error))
}

/// The first seat's files bear no number.
fn numbered(name: &str, number: usize) -> String {
    if number == 0 { name.to_owned() } else { format!("{name}-{}", number + 1) }
}
