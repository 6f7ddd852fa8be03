//! Messages that were laid aside go back into the queue, some at a time.
//!
//! Each lot is one transaction of the broker: its messages are in the one queue or in the other, whenever the
//! connection is cut.

use std::time::{Duration, Instant};

use capstan_core::message::Replayed;
use capstan_core::ports::DriverError;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions};
use lapin::{BasicProperties, Channel};

use super::publish::PERSISTENT;
use super::{DEAD, QUEUE, Settings, Topology, connect, failed, inward, queue};

/// Messages in one transaction.
const LOT: u32 = 100;
/// No lot is begun after this time, so that whoever asks is answered long before a call is given up.
const TIME: Duration = Duration::from_secs(4);

/// Moves at most so many messages, on a connection of its own: that happens rarely.
pub(super) async fn replay(settings: &Settings, most: u32) -> Result<Replayed, DriverError> {
    let connection = connect(settings, "capstan cmdb, replay").await?;
    let channel = connection.create_channel().await;
    let channel = channel.map_err(|error| failed("a channel", &error))?;
    inward(&channel, settings.topology).await?;
    channel.tx_select().await.map_err(|error| failed("transactions", &error))?;
    // No more than there are now: what comes back at once is not moved for ever.
    let there = queue(&channel, DEAD, Topology::Checked).await?;
    let (most, began) = (most.min(there), Instant::now());
    let mut moved = 0;
    while moved < most && began.elapsed() < TIME {
        match lot(&channel, LOT.min(most - moved)).await {
            Ok(0) => return Ok(Replayed { moved, left: 0 }),
            Ok(some) => moved += some,
            // What was moved stays moved, and is told.
            Err(error) if moved > 0 => {
                tracing::warn!(%error, moved, "only some messages are in the queue again");
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Replayed { moved, left: there - moved })
}

async fn lot(channel: &Channel, most: u32) -> Result<u32, DriverError> {
    let mut moved = 0;
    while moved < most {
        let got = channel.basic_get(DEAD.into(), BasicGetOptions::default()).await;
        let Some(got) = got.map_err(|error| failed("a dead message", &error))? else { break };
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let (options, body) = (BasicPublishOptions::default(), &got.delivery.data);
        let sent = channel.basic_publish("".into(), QUEUE.into(), options, body, properties).await;
        sent.map_err(|error| failed("a message", &error))?;
        let done = got.delivery.acker.ack(BasicAckOptions::default()).await;
        done.map_err(|error| failed("an acknowledgement", &error))?;
        moved += 1;
    }
    channel.tx_commit().await.map_err(|error| failed("a transaction", &error))?;
    Ok(moved)
}
