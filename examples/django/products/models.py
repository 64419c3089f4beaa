"""The tables."""

from django.db import models


class Product(models.Model):
    """Something for sale."""

    name = models.CharField(max_length=100, unique=True)
    price = models.DecimalField(max_digits=10, decimal_places=2, default=0)
