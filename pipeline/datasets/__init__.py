"""The layouts: one small module for each data set's way of storing files and labels."""

from pipeline.datasets import av_deepfake1m, csv_table, dfdc, fakeavceleb, folders, lav_df, swan_df
from pipeline.datasets.base import Entry, LabelledFile, Layout, Refused

LAYOUTS: dict[str, Layout] = {
    "synth": csv_table.LAYOUT,
    "csv": csv_table.LAYOUT,
    "folders": folders.LAYOUT,
    "fakeavceleb": fakeavceleb.LAYOUT,
    "swan-df": swan_df.LAYOUT,
    "lav-df": lav_df.LAYOUT,
    "av-deepfake1m": av_deepfake1m.LAYOUT,
    "dfdc": dfdc.LAYOUT,
}

__all__ = ["LAYOUTS", "Entry", "LabelledFile", "Layout", "Refused"]
