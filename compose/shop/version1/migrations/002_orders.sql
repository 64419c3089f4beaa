-- An order keeps the price of its day.
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id bigint NOT NULL REFERENCES products (id),
    quantity bigint NOT NULL CHECK (quantity > 0),
    price numeric(10, 2) NOT NULL,
    ordered_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX orders_product_id ON orders (product_id);
