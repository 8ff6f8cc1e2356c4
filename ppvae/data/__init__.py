"""Data sets by name, laws of missingness, and tables with holes."""

from ppvae.data.catalogue import load, names
from ppvae.data.chance import split
from ppvae.data.dataset import Dataset
from ppvae.data.graphs import Graph, graph, graph_pairs, held_out_links
from ppvae.data.missing import mar, mcar, mnar, quarters, self_masked
from ppvae.data.mnist_attributes import Attributes, mnist_attributes
from ppvae.data.schema import Schema
from ppvae.data.table import Table, from_frame, read_table, write_table

__all__ = [
    "Attributes",
    "Dataset",
    "Graph",
    "Schema",
    "Table",
    "from_frame",
    "graph",
    "graph_pairs",
    "held_out_links",
    "load",
    "mar",
    "mcar",
    "mnar",
    "mnist_attributes",
    "names",
    "quarters",
    "read_table",
    "self_masked",
    "split",
    "write_table",
]
