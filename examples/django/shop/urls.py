"""One page."""

from django.http import HttpRequest, JsonResponse
from django.urls import path
from products.models import Product


def products(_request: HttpRequest) -> JsonResponse:
    """List everything that is for sale."""
    found = Product.objects.order_by("id")
    return JsonResponse([{"name": one.name, "price": str(one.price)} for one in found], safe=False)


urlpatterns = [path("products", products)]
