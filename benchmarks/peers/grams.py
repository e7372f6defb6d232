"""polars: rows that share an n-gram of words with an item. Arguments: the folder of rows.parquet and items.parquet, n."""

import json
import sys
import time

import polars as pl


def grams(path: str, n: int) -> pl.LazyFrame:
    """Return one line per n-gram."""
    frame = pl.scan_parquet(path).with_row_index("row").with_columns(pl.col("words").str.split(" ")).explode("words")
    shifted = [pl.col("words").shift(-k).over("row").alias(f"w{k}") for k in range(n)]
    return frame.select("row", *shifted).drop_nulls().select("row", pl.concat_str([f"w{k}" for k in range(n)], separator=" ").alias("gram"))


folder, size = sys.argv[1], int(sys.argv[2])
started, used = time.perf_counter(), time.process_time()
items = grams(f"{folder}/items.parquet", size).select("gram").unique()
found = grams(f"{folder}/rows.parquet", size).join(items, on="gram", how="semi").select("row").unique().collect()
print(json.dumps({"seconds": time.perf_counter() - started, "cpu": time.process_time() - used, "rows": found["row"].to_list()}))
