// A shop with one page.
const http = require("http");
const { drizzle } = require("drizzle-orm/node-postgres");
const { products } = require("./schema");

const database = drizzle(process.env.DATABASE_URL);

const server = http.createServer(async (request, response) => {
  try {
    const { name, price } = products;
    const found = await database.select({ name, price }).from(products).orderBy(products.id);
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify(found));
  } catch (error) {
    response.statusCode = 500;
    response.end(error.message);
  }
});
server.listen(process.env.PORT || 8000);
process.on("SIGTERM", () => process.exit(143));
