# One page.
class ProductsController < ActionController::API
  def index
    render json: Product.order(:id).map { |product| { name: product.name, price: product.price.to_s("F") } }
  end
end
