"""Tests of the controller: trust's way."""
