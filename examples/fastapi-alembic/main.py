"""A shop with one page."""

import os

from fastapi import FastAPI
from models import Product
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

engine = create_engine(os.environ["DATABASE_URL"])
app = FastAPI()


@app.get("/products")
def products() -> list[dict[str, str]]:
    """List everything that is for sale."""
    with Session(engine) as session:
        found = session.scalars(select(Product).order_by(Product.id))
        return [{"name": product.name, "price": str(product.price)} for product in found]
