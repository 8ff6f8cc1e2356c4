"""Data sets by name, laws of missingness, and tables with holes."""

from ppvae.data.catalogue import load, names
from ppvae.data.chance import split
from ppvae.data.dataset import Dataset
from ppvae.data.graphs import Graph, graph, graph_pairs, held_out_links
from ppvae.data.meshes import Mesh, alpha_shape, poisson, write_mesh
from ppvae.data.missing import mar, mcar, mnar, quarters, self_masked
from ppvae.data.mnist_attributes import Attributes, mnist_attributes
from ppvae.data.schema import Schema
from ppvae.data.shapes import Shapes, shapes, shapes_of
from ppvae.data.sprites import sprites
from ppvae.data.table import Table, from_frame, read_table, write_table

__all__ = [
    "Attributes",
    "Dataset",
    "Graph",
    "Mesh",
    "Schema",
    "Shapes",
    "Table",
    "alpha_shape",
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
    "poisson",
    "quarters",
    "read_table",
    "self_masked",
    "shapes",
    "shapes_of",
    "split",
    "sprites",
    "write_mesh",
    "write_table",
]
