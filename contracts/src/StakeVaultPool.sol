// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @notice Stake of many accounts that a slash cuts for all of them pro rata: each holds shares of one amount.
/// @param amount what the shares are worth together (nano-tokens)
/// @param shares all shares of the present era
/// @param era shares of an earlier era are first brought forward, see `inEra`
/// @param liveSince shares of an era before this one are worth nothing: a slash took all of them
struct Pool {
    uint128 amount;
    uint128 shares;
    uint32 era;
    uint32 liveSince;
}

/// @title Arithmetic of a pool of shares.
/// @notice Conversions count one virtual share and one virtual nano-token (OpenZeppelin's ERC4626 offset) and round in favour
/// of the pool, so nobody's worth falls when others come or go.
/// A slash makes shares cheap. Before one share would be worth less than 1e-9 nano-token, all shares are divided by `RESCALE`
/// and a new era begins; so the number of shares stays below 1e9 * (amount + 1) and joining can never overflow. That is what
/// keeps an exit (which joins a pool of unbonding stake) from ever being blocked.
library StakeVaultPool {
    /// @notice By how much shares shrink from one era to the next.
    uint128 internal constant RESCALE = 1e9;

    /// @notice Adds `amount`; the caller has bounded the sum of all amounts (see StakeVaultStorage.MAX_PRINCIPAL).
    function join(Pool storage self, uint128 amount) internal returns (uint128 shares) {
        shares = uint128(Math.mulDiv(amount, uint256(self.shares) + 1, uint256(self.amount) + 1));
        self.amount += amount;
        self.shares += shares;
    }

    /// @notice Takes out what `shares` of the present era are worth.
    function exit(Pool storage self, uint128 shares) internal returns (uint128 amount) {
        amount = worth(self, shares);
        self.amount -= amount;
        self.shares -= shares;
    }

    /// @notice Takes out `amount` for a holder of `shares`, whose worth it does not exceed; returns the shares it costs.
    function exitPartly(Pool storage self, uint128 shares, uint128 amount) internal returns (uint128 burnt) {
        uint256 cost = Math.mulDiv(amount, uint256(self.shares) + 1, uint256(self.amount) + 1, Math.Rounding.Ceil);
        burnt = uint128(Math.min(cost, shares));
        self.amount -= amount;
        self.shares -= burnt;
    }

    /// @notice Takes `amount`, at most all there is, from all holders pro rata. Ends eras where the shares get too cheap; if
    /// nothing is left, all shares are void.
    function cut(Pool storage self, uint128 amount) internal {
        if (amount == 0) return;
        uint128 left = self.amount - amount;
        self.amount = left;
        if (left == 0) {
            self.shares = 0;
            self.liveSince = ++self.era;
            return;
        }
        uint128 shares = self.shares;
        while (shares / RESCALE >= left) {
            shares /= RESCALE;
            ++self.era;
        }
        self.shares = shares;
    }

    function worth(Pool storage self, uint128 shares) internal view returns (uint128) {
        if (shares == 0) return 0;
        if (shares == self.shares) return self.amount;
        return uint128(Math.mulDiv(shares, uint256(self.amount) + 1, uint256(self.shares) + 1));
    }

    /// @notice Shares of an earlier era as shares of the present one.
    function inEra(Pool storage self, uint128 shares, uint32 era) internal view returns (uint128) {
        if (era < self.liveSince) return 0;
        for (uint32 now_ = self.era; era < now_ && shares != 0; ++era) {
            shares /= RESCALE;
        }
        return shares;
    }
}
