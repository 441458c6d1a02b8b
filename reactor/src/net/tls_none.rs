//! Without the feature `tls`: no connection has a filter.

use std::time::Instant;

use crate::core::pool::Pool;

/// Does not exist here.
pub(crate) enum Tls {}

impl Tls {
    pub(crate) fn is_in_handshake(&self) -> bool {
        match *self {}
    }

    pub(crate) fn was_secured(&self) -> bool {
        match *self {}
    }

    pub(crate) fn awaits_turn(&self) -> bool {
        match *self {}
    }

    pub(crate) fn takes_output(&self) -> bool {
        match *self {}
    }

    pub(crate) fn is_opening(&self) -> bool {
        match *self {}
    }

    pub(crate) fn has_to_announce(&self) -> bool {
        match *self {}
    }

    pub(crate) fn has_output(&self) -> bool {
        match *self {}
    }

    pub(crate) fn pending(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn queued(&self) -> usize {
        match *self {}
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match *self {}
    }

    pub(crate) fn cut_off(&mut self) {
        match *self {}
    }

    pub(crate) fn clear_output(&mut self, _: &Pool) {
        match *self {}
    }
}
