"""CyberArk Conjur: a store of secrets, and an intermediate whose chain and key are two of its variables."""

from federation.signer.authorities.conjur.pair import PairOfVariables
from federation.signer.authorities.conjur.store import Conjur

__all__ = ["Conjur", "PairOfVariables"]
