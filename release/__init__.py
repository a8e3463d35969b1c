"""How a release is made: the file system of its image, its bill of materials and its files. No part of the hub."""
