// A shop with one page.
const http = require("http");
const knex = require("knex")(require("./knexfile"));

const server = http.createServer(async (request, response) => {
  try {
    const products = await knex("products").orderBy("id").select("name", "price");
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify(products));
  } catch (error) {
    response.statusCode = 500;
    response.end(error.message);
  }
});
server.listen(process.env.PORT || 8000);
process.on("SIGTERM", () => process.exit(143));
