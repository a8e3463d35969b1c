"""The ground floor: values and rules without I/O, without a clock or randomness of its own."""
