//! Many routes, few fates: what is done with each is said once for all that share it.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::plan::state::FibRoute;

/// Routes, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    fates: Vec<FibRoute>,
    known: BTreeMap<FibRoute, u32>,
    routes: Vec<(IpNet, u32)>,
}

impl Routes {
    /// The number of a fate, the same for the same.
    pub fn fate(&mut self, route: &FibRoute) -> u32 {
        if let Some(number) = self.known.get(route) {
            return *number;
        }
        let number = u32::try_from(self.fates.len()).unwrap_or(u32::MAX);
        self.fates.push(route.clone());
        self.known.insert(route.clone(), number);
        number
    }

    /// Adds a route with the fate of this number.
    pub fn push(&mut self, prefix: IpNet, fate: u32) {
        self.routes.push((prefix, fate));
    }

    /// Every fate, by number.
    #[must_use]
    pub fn fates(&self) -> &[FibRoute] {
        &self.fates
    }

    /// The fate with this number.
    #[must_use]
    pub fn fate_at(&self, number: u32) -> Option<&FibRoute> {
        self.fates.get(number as usize)
    }

    /// How many routes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.routes.len()
    }

    /// There are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Every route.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &FibRoute)> {
        let routes = self.routes.iter();
        routes.filter_map(|(prefix, fate)| Some((*prefix, self.fate_at(*fate)?)))
    }

    /// So many at a time, with the numbers of their fates.
    pub(super) fn chunks(&self, most: usize) -> impl Iterator<Item = &[(IpNet, u32)]> {
        self.routes.chunks(most)
    }
}

impl<'a> FromIterator<(IpNet, &'a FibRoute)> for Routes {
    fn from_iter<I: IntoIterator<Item = (IpNet, &'a FibRoute)>>(routes: I) -> Self {
        let mut all = Self::default();
        let mut last: Option<(&FibRoute, u32)> = None;
        for (prefix, route) in routes {
            let fate = match last {
                Some((same, fate)) if same == route => fate,
                _ => all.fate(route),
            };
            last = Some((route, fate));
            all.push(prefix, fate);
        }
        all
    }
}
