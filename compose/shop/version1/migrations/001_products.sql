-- What the shop sells.
CREATE TABLE products (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    price numeric(10, 2) NOT NULL CHECK (price > 0)
);

INSERT INTO products (id, name, price) VALUES
    (1, 'Kettle', 34.90),
    (2, 'Teapot', 19.50),
    (3, 'Strainer', 4.25);
