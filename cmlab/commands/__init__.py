"""The command line: ``cmlab train | sample | edit | evaluate | search | likelihood | theory | convert | info``."""
